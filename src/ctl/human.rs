//! Numbers as people read them.

/// Bytes with a binary unit and three digits.
pub fn bytes(n: u64) -> String {
    let (mut x, mut unit) = (n as f64, 0);
    // 1023.5 would be printed as 1024.
    while x >= 1023.5 && unit < 5 {
        x /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || x >= 99.95 { 0 } else { 1 };
    format!("{x:.digits$} {}", ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit])
}

/// A count of parameters: `1.54 B`.
pub fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.0} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// A time span: `4.2 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`.
pub fn seconds(s: f64) -> String {
    let n = s.max(0.0) as u64;
    match n {
        0..10 => format!("{:.1} s", s.max(0.0)),
        10..60 => format!("{n} s"),
        60..3600 => format!("{} min {} s", n / 60, n % 60),
        3600..86_400 => format!("{} h {} min", n / 3600, n % 3600 / 60),
        _ => format!("{} d {} h", n / 86_400, n % 86_400 / 3600),
    }
}

/// Since when.
pub fn ago(s: f64) -> String {
    if s < 1.0 { "now".to_owned() } else { format!("{} ago", seconds(s)) }
}

/// Text from a file or another user, without characters that steer a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_117_320_768, "1.0 GiB"), (512 << 20, "512 MiB")];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!((count(1_543_714_304), count(268_098_176)), ("1.54 B".to_owned(), "268 M".to_owned()));
        let times = [(4.21, "4.2 s"), (59.9, "59 s"), (185.0, "3 min 5 s"), (7800.0, "2 h 10 min"), (-1.0, "0.0 s")];
        for (s, text) in times {
            assert_eq!(seconds(s), text);
        }
        assert_eq!(clean("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
