//! The caller's trace: `traceparent` (W3C Trace Context, level 1) from the request into spans, and on into processes.
//!
//! It exports nothing: the ids stand in every log line of the request, and `TRACEPARENT` in the environment of what it runs.

use http::HeaderMap;

/// A caller's trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub parent_id: String,
    /// As it came, to be passed on.
    pub header: String,
}

/// Reads `traceparent`; `None` where it is absent or malformed, as the specification asks.
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<Context> {
    let header = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let sound = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    let closed = version != "00" || parts.next().is_none();
    (sound && closed && !zero(trace) && !zero(parent)).then(|| Context {
        trace_id: trace.to_owned(),
        parent_id: parent.to_owned(),
        header: header.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, trace: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", header.parse().unwrap());
        assert_eq!(read(&headers).map(|context| context.trace_id).as_deref(), trace, "{header}");
    }

    #[test]
    fn only_a_sound_context_is_taken() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        check(&format!("00-{trace}-b7ad6b7169203331-01"), Some(trace));
        check(&format!("ff-{trace}-b7ad6b7169203331-01"), None);
        check(&format!("00-{trace}-0000000000000000-01"), None);
        check(&format!("00-{trace}-b7ad6b7169203331-01-more"), None);
        check("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None);
        check("nonsense", None);
    }
}
