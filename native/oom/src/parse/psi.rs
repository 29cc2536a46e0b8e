//! Pressure stall information.

use super::value::digits;
use super::{fields, lines};
use crate::reading::Psi;

/// A `memory.pressure` file or `/proc/pressure/memory`. Both lines, or nothing.
#[must_use]
pub fn psi(bytes: &[u8]) -> Option<Psi> {
    let (some_avg10, some_total_us) = line(bytes, b"some ")?;
    let (full_avg10, full_total_us) = line(bytes, b"full ")?;
    Some(Psi {
        some_avg10,
        some_total_us,
        full_avg10,
        full_total_us,
    })
}

fn line(bytes: &[u8], kind: &[u8]) -> Option<(f64, u64)> {
    let rest = lines(bytes).find_map(|line| line.strip_prefix(kind))?;
    let value = |key: &[u8]| fields(rest).find_map(|field| field.strip_prefix(key));
    Some((percent(value(b"avg10=")?)?, digits(value(b"total=")?)?))
}

/// `12.34`, as the kernel writes it; `f64::from_str` would also take `inf` and `1e9`.
fn percent(field: &[u8]) -> Option<f64> {
    let mut halves = field.splitn(2, |byte| *byte == b'.');
    let whole = u32::try_from(digits(halves.next()?)?).ok()?;
    match halves.next()? {
        cents @ [_, _] => {
            Some(f64::from(whole) + f64::from(u32::try_from(digits(cents)?).ok()?) / 100.0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines() {
        let text = b"some avg10=12.34 avg60=1.00 avg300=0.10 total=123456\n\
                     full avg10=0.05 avg60=0.00 avg300=0.00 total=99\n";
        let want = Psi {
            some_avg10: 12.34,
            some_total_us: 123_456,
            full_avg10: 0.05,
            full_total_us: 99,
        };
        assert_eq!(psi(text), Some(want));
    }

    #[test]
    fn half_a_file_is_nothing() {
        assert_eq!(psi(b""), None);
        assert_eq!(
            psi(b"some avg10=12.34 avg60=1.00 avg300=0.10 total=123456\n"),
            None
        );
        assert_eq!(
            psi(b"some avg10=1.00 total=1\nfull avg10=1.00 total=1"),
            None
        );
        assert_eq!(
            psi(b"some avg10=inf total=1\nfull avg10=1.00 total=1\n"),
            None
        );
    }
}
