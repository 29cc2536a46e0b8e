//! Reference implementations for the fuzz targets.

/// The complete lines. Bytes after the last newline must change nothing.
#[must_use]
pub fn complete(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A number and a newline, as the standard library reads it.
#[must_use]
pub fn only_number(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    // `parse` would accept a sign.
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}
