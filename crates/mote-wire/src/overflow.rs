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

/// Phrases that speak of nothing else, whatever stands beside them: a link to a page on quotas is no rate.
const SURE: [&str; 13] = [
    "maximum context length",
    "maximum context size",
    "model's context length",
    "model's maximum context",
    "prompt is too long",
    "context length exceeded",
    "context_length_exceeded",
    // LiteLLM.
    "ContextWindowExceeded",
    "maximum prompt length",
    // MLC, LMDeploy, text-generation-webui.
    "model input length limit",
    "exceeds session_len",
    "exceeds the truncation length",
    // Zhipu.
    "prompt 超长",
];

/// Words of which one must stand beside a phrase that alone may speak of something else.
const OF_A_PROMPT: [&str; 9] =
    ["input", "prompt", " token", "(token", "exceed", "too long", "too large", "longer than", "message"];

/// Phrases that count only beside one of [`OF_A_PROMPT`].
const UNSURE: [&str; 7] = [
    "context window",
    "context_window",
    "exceeds the maximum allowed length",
    // Reka.
    "longer than the maximum allowed",
    // SiliconFlow, TabbyAPI, KTransformers.
    "max_seq_len",
    // TensorRT-LLM.
    "exceeds the maximum sequence length",
    // Vertex: "input token count is … but model only supports up to …".
    "model only supports up to",
];

/// What is said of other lengths: of a parameter, or of a part that is no text.
const OF_ANOTHER_LENGTH: [&str; 5] =
    ["max_tokens must be", "max_tokens` must be", "max_tokens' must be", "pixel", "image"];

/// Phrases of an overflow, in lower case.
const PHRASES: [&str; 41] = [
    // Anthropic, also behind Bedrock and Vertex; Fireworks; vLLM ("is too long to fit into the model").
    "exceed context limit",
    "exceeds context limit",
    "is too long to fit into the model",
    // OpenAI, Azure, DeepSeek, OpenRouter, Mistral ("too large for model with … maximum context length"), vLLM, SGLang.
    "reduce your prompt",
    // vLLM: "The decoder prompt (length …) is longer than the maximum model length of …"; since 0.11 "… the model's context
    // length is only …, resulting in a maximum input length of …".
    "maximum model length",
    "maximum input length",
    "context length is only",
    // SGLang and Together: "The input (… tokens) is longer than the model's context length"; SGLang: "Input length (… tokens)
    // exceeds the maximum allowed length".
    "maximum allowed input length",
    // xAI.
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
    // GitHub: "prompt token count of … exceeds the limit of …"; Databricks: "prompt token count (…) cannot exceed …".
    "prompt token count of",
    "prompt token count (",
    // Vertex, Hunyuan.
    "input token count is",
    "input tokens exceed",
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
    if says(&TOO_LARGE_FOR_A_MINUTE) || SURE.iter().any(says) {
        return true;
    }
    let unsure = || UNSURE.iter().any(says) && OF_A_PROMPT.iter().any(says) && !OF_ANOTHER_LENGTH.iter().any(says);
    !RATES.iter().any(says) && (PHRASES.iter().any(says) || unsure())
}
