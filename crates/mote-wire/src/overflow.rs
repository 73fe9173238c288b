//! The words by which providers and servers say that the context is too long, where no code says it.
//!
//! A phrase stands here only if it speaks of the whole context or of the prompt: a shorter prompt must help. "`max_tokens` is too
//! large" alone is a mistake in the configuration and no overflow; where the same sentence names the model's context length
//! (vLLM), the prompt counts towards it and it is one.

use crate::json::Text;

/// A request that alone is larger than what a minute allows (OpenAI, Groq): waiting never helps, a shorter prompt does.
const TOO_LARGE_FOR_A_MINUTE: &str = "request too large for";

/// What is said of rates and quotas, in tokens too: "Too many tokens, please wait" (Bedrock) is no overflow.
const RATES: [&str; 8] =
    ["rate limit", "rate_limit", "per minute", "per day", "too many requests", "throttl", "quota", "please wait"];

/// Phrases of an overflow, in lower case.
const PHRASES: [&str; 46] = [
    // Anthropic, also behind Bedrock and Vertex; Fireworks; vLLM ("is too long to fit into the model").
    "prompt is too long",
    "exceed context limit",
    "exceeds context limit",
    "is too long to fit into the model",
    // OpenAI, Azure, DeepSeek, OpenRouter, Mistral ("too large for model with … maximum context length"), vLLM, SGLang.
    "maximum context length",
    "context window",
    "context length exceeded",
    "context_length_exceeded",
    "reduce your prompt",
    // vLLM: "The decoder prompt (length …) is longer than the maximum model length of …"; since 0.11 "… the model's context
    // length is only …, resulting in a maximum input length of …".
    "maximum model length",
    "maximum input length",
    "context length is only",
    // SGLang and Together: "The input (… tokens) is longer than the model's context length"; SGLang: "Input length (… tokens)
    // exceeds the maximum allowed length".
    "model's context length",
    "exceeds the maximum allowed length",
    "maximum allowed input length",
    // xAI.
    "maximum prompt length",
    // Gemini: "The input token count (…) exceeds the maximum number of tokens allowed (…)".
    "maximum number of tokens allowed",
    "input token count exceeds",
    // Moonshot, and Kimi for coding.
    "exceeded model token limit",
    // LM Studio.
    "greater than the context length",
    "context length of only",
    "reached context length",
    // llama.cpp: before, and in the middle of, a reply.
    "available context size",
    "context size has been exceeded",
    "configured context size",
    // Ollama.
    "max context length",
    "exceeded context length",
    "exceeds the context length",
    "prompt too long",
    // Bedrock: "Input is too long for requested model."
    "input is too long",
    "too many input tokens",
    "number of input tokens exceeds",
    // Cohere: "too many tokens: total number of tokens in the prompt cannot exceed …".
    "total number of tokens in the prompt",
    // Groq, Cerebras, vLLM.
    "reduce the length of the",
    "reduce your message size",
    // GitHub: "prompt token count of … exceeds the limit of …".
    "prompt token count of",
    // Hugging Face TGI, Together.
    "`inputs` tokens + `max_new_tokens` must be",
    "`inputs` must have less than",
    // DashScope, Volcengine, Zhipu, Baidu, Tencent.
    "range of input length should be",
    "exceed max message tokens",
    "prompt exceeds max length",
    "prompt tokens too long",
    "max input length",
    // watsonx, SambaNova, TensorRT-LLM.
    "cannot exceed the total tokens limit",
    "maximum supported sequence length",
    "sum of prompt length",
];

/// Whether a message says so.
pub(crate) fn is_said_by(message: Text<'_>) -> bool {
    let says = |phrase: &&str| message.contains_ignoring_case(phrase);
    says(&TOO_LARGE_FOR_A_MINUTE) || (!RATES.iter().any(&says) && PHRASES.iter().any(says))
}
