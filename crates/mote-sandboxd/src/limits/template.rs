//! Limits of templates: their number, their builds, the logs of these, and the files that are uploaded for them.
//!
//! What a build's sandbox may use beside these stands with the limits of recipes.

use std::time::Duration;

/// Templates that there are at once.
pub const TEMPLATES_MAX: usize = 1000;
/// Bytes of a template's name, and of a tag.
pub const TEMPLATE_NAME_BYTES_MAX: usize = 128;
/// Tags of one template.
pub const TEMPLATE_TAGS_MAX: usize = 100;
/// Builds of one template that are remembered beside those that a tag names; the oldest are forgotten, with their images.
pub const TEMPLATE_BUILDS_KEPT: usize = 20;
/// Builds that run at once.
pub const TEMPLATE_BUILDS_AT_ONCE: usize = 2;
/// Builds that wait for others to end; what comes beyond is answered `exhausted`.
pub const TEMPLATE_BUILDS_WAITING_MAX: usize = 16;
/// Time for one build, from its first step to its end.
pub const TEMPLATE_BUILD_TIMEOUT: Duration = Duration::from_secs(3600);
/// Steps of one build.
pub const TEMPLATE_STEPS_MAX: usize = 256;
/// Bytes of one command, path or value of a step.
pub const TEMPLATE_ARGUMENT_BYTES_MAX: usize = 64 * 1024;
/// Arguments of one step.
pub const TEMPLATE_ARGUMENTS_MAX: usize = 512;
/// Variables of a template's environment, and bytes of them together.
pub const TEMPLATE_ENVIRONMENT_MAX: usize = 512;
/// Bytes of a template's environment.
pub const TEMPLATE_ENVIRONMENT_BYTES_MAX: usize = 32 * 1024;
/// Layers that builds may find again; the oldest are forgotten when no build runs.
pub const TEMPLATE_LAYERS_KEPT: usize = 500;
/// Most processors, and most memory in MiB, that a template may ask for.
pub const TEMPLATE_CPUS_MAX: u32 = 64;
/// Most memory in MiB that a template may ask for.
pub const TEMPLATE_MEMORY_MIB_MAX: u64 = 256 * 1024;

/// Bytes of one build's log. What programs print beyond is left out, and the log says so.
pub const TEMPLATE_LOG_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one line of it.
pub const TEMPLATE_LOG_LINE_BYTES_MAX: usize = 4096;
/// Bytes that one entry is counted with beside its text.
pub const TEMPLATE_LOG_ENTRY_BYTES: usize = 64;
/// Entries that one answer tells, as E2B's does.
pub const TEMPLATE_LOG_ENTRIES_TOLD: usize = 100;
/// Entries that stand with the reason of a failure.
pub const TEMPLATE_REASON_ENTRIES: usize = 20;

/// Bytes of the files of one `copy`, as they are uploaded.
pub const TEMPLATE_UPLOAD_BYTES_MAX: u64 = 2 << 30;
/// Bytes of all uploads that are kept; the oldest go first.
pub const TEMPLATE_UPLOADS_BYTES_KEPT: u64 = 16 << 30;
/// Uploads at once; what comes beyond is answered `exhausted`.
pub const TEMPLATE_UPLOADS_AT_ONCE: usize = 8;
/// How long an upload may bring nothing.
pub const TEMPLATE_UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Milliseconds for which the address of an upload is good.
pub const TEMPLATE_UPLOAD_ADDRESS_MS: u64 = 3600 * 1000;

/// Time for a build to be ready, as its ready command tells.
pub const TEMPLATE_READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two runs of a ready command.
pub const TEMPLATE_READY_EVERY: Duration = Duration::from_millis(200);
/// Time for a new sandbox to be ready; then it is handed out as it is. E2B's SDKs wait 60 seconds for an answer.
pub const TEMPLATE_READY_AT_CREATION: Duration = Duration::from_secs(45);
/// Time in which builds under way end and are cleaned up when the daemon stops.
pub const TEMPLATE_STOP_TIMEOUT: Duration = Duration::from_secs(30);
