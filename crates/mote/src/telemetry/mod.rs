//! Placeholder header: replaced by the module's author.
