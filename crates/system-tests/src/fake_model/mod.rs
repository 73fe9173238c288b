//! A fake model endpoint over real HTTP: OpenAI Chat Completions and Anthropic Messages, streamed and not, faithful
//! enough for the official SDKs (`tests/sdk.rs`), and misbehaving on demand.
//!
//! What it does is a [`Plan`]. It keeps no conversation: like the real endpoints it knows only the request.

mod anthropic;
mod asked;
mod delivery;
mod mode;
mod openai;
mod plan;
mod said;
mod server;
mod strict;

pub use anthropic::signature;
pub use asked::{Asked, Offered, Refusal, Wire};
pub use plan::{Behaviour, Call, Fault, Finish, Framing, Plan, Reply, Rule, Timing, Tokens, When};
pub use server::{FakeModel, Recorded, Stats, announcement};
