//! Every limit of the daemon and its keeper: queues, buffers, retries, payloads.
//!
//! It does not hold the bounds of the contract (what one request may ask for): those are `mote_sandbox_api::limits`.

/// Bytes of one message between the daemon and the keeper.
pub const KEEPER_MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors that travel with one message between the daemon and the keeper.
pub const KEEPER_DESCRIPTORS_MAX: usize = 8;
/// Verbs that wait for the keeper; what comes beyond is answered `exhausted`.
pub const KEEPER_QUEUE_MAX: usize = 1024;
