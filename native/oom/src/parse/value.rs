//! Files with one value.

use super::lines;

/// A limit as the kernel writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    Unlimited,
    Bytes(u64),
}

impl Limit {
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// From here on a number means "no limit". v1 writes LONG_MAX rounded down to a page, whatever
/// the page size (4 KiB to 256 KiB), and old kernels LLONG_MAX or ULLONG_MAX. The largest page
/// fits the MiB left below LONG_MAX, and no machine holds 8 EiB.
const UNLIMITED_FROM: u64 = i64::MAX as u64 - (1 << 20);

/// A cgroup limit file: a number, or `max` (v2).
#[must_use]
pub fn limit(bytes: &[u8]) -> Option<Limit> {
    match only_line(bytes)? {
        b"max" => Some(Limit::Unlimited),
        line => digits(line).map(Limit::from_number),
    }
}

/// A file with one number and nothing else.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<u64> {
    only_line(bytes).and_then(digits)
}

impl Limit {
    pub(super) fn from_number(number: u64) -> Self {
        if number >= UNLIMITED_FROM {
            Self::Unlimited
        } else {
            Self::Bytes(number)
        }
    }
}

/// Decimal digits and nothing else; no sign, no blank, no overflow.
pub(super) fn digits(field: &[u8]) -> Option<u64> {
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn only_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = lines(bytes).next()?;
    (line.len() + 1 == bytes.len()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_versions() {
        assert_eq!(limit(b"max\n"), Some(Limit::Unlimited));
        assert_eq!(limit(b"536870912\n"), Some(Limit::Bytes(536_870_912)));
        assert_eq!(limit(b"0\n"), Some(Limit::Bytes(0)));
    }

    #[test]
    fn v1_without_a_limit_for_pages_of_4_16_and_64_kib_and_old_kernels() {
        for text in [
            "9223372036854771712\n",
            "9223372036854759424\n",
            "9223372036854710272\n",
            "9223372036854775807\n",
            "18446744073709551615\n",
        ] {
            assert_eq!(limit(text.as_bytes()), Some(Limit::Unlimited), "{text}");
        }
    }

    #[test]
    fn cut_off_and_foreign_texts_are_nothing() {
        for text in [
            "", "\n", "5368", "ma\n", "max", "-1\n", "+1\n", " 1\n", "1 \n", "1\n2\n",
        ] {
            assert_eq!(limit(text.as_bytes()), None, "{text:?}");
            assert_eq!(number(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(number(b"18446744073709551616\n"), None);
        assert_eq!(number(b"max\n"), None);
    }
}
