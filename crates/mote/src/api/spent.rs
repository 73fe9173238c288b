//! What a task or a session spent, as clients see it: what is known, and told apart from it what nobody knows.
//!
//! It adds nothing up; the store does.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::Uncertain;
use crate::usage::Usage;

/// Tokens. Budgets count the uncertain ones too.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(super) struct UsageBody {
    /// Of calls whose cost is known.
    #[serde(flatten)]
    known: Usage,
    /// What calls may have used of which nobody said it: lost with their worker, cut off, or failed without a word; left out
    /// where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertain: Option<UncertainTokens>,
}

/// Tokens of calls of which nobody said what they used.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UncertainTokens {
    /// Input tokens at most, by estimate.
    input: u64,
    /// Output tokens at most, by estimate.
    output: u64,
}

impl UsageBody {
    pub(super) fn new(known: Usage, uncertain: Uncertain) -> Self {
        let Uncertain { input, output, .. } = uncertain;
        let any = uncertain != Uncertain::default();
        Self { known, uncertain: any.then_some(UncertainTokens { input, output }) }
    }
}

/// Money. Budgets count the uncertain cost too.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cost {
    /// What is known to be spent.
    #[serde(flatten)]
    known: Money,
    /// What calls may have cost of which nobody said it: lost with their worker, cut off, or failed without a word; left out
    /// where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertain: Option<Money>,
}

/// A sum.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Money {
    /// US dollars, for people; rounded as floating point does.
    usd: f64,
    /// 1e-9 US dollars, exact.
    nano_usd: u64,
}

impl Cost {
    pub(super) fn new(nano_usd: u64, uncertain: Uncertain) -> Self {
        let any = uncertain != Uncertain::default();
        Self { known: Money::new(nano_usd), uncertain: any.then(|| Money::new(uncertain.nano_usd)) }
    }
}

impl Money {
    fn new(nano_usd: u64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "nano_usd beside it is exact")]
        let usd = nano_usd as f64 / 1e9;
        Self { usd, nano_usd }
    }
}
