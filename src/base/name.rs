//! Names of models: the id of a file, and the nearest known names for one that is not known.

use std::path::Path;

/// Suggestions that [`nearest`] gives at most.
const SUGGESTIONS: usize = 3;
/// Similarity below which a candidate is no suggestion; 0.6 lets `qwen` find `Qwen3-8B-Q4_K_M`
/// through its common prefix, and keeps unrelated names out.
const SIMILAR: f64 = 0.6;

/// The id of the model in `path`: the file's stem, without the suffix of a split part
/// (`Qwen3-8B-Q4_K_M-00001-of-00003.gguf` is `Qwen3-8B-Q4_K_M`).
pub fn model_id(path: impl AsRef<Path>) -> String {
    let name = path.as_ref().file_name().unwrap_or_default().to_string_lossy();
    // Only `.gguf` is an ending: `Qwen2.5-1.5B` has dots that belong to its name.
    let stem = match name.len().checked_sub(5).and_then(|at| name.get(at..)) {
        Some(end) if end.eq_ignore_ascii_case(".gguf") => &name[..name.len() - 5],
        _ => &name,
    };
    match split_part(stem) {
        Some((base, _, _)) => base.to_owned(),
        None => stem.to_owned(),
    }
}

/// Takes the stem of a split part apart: `x-00002-of-00003` is `("x", 2, 3)`.
pub fn split_part(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, no) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    if base.is_empty() {
        return None;
    }
    Some((base, number(no)?, number(count)?))
}

/// The stem of part `no` of `count` of the split model `base`.
pub fn part_name(base: &str, no: u32, count: u32) -> String {
    format!("{base}-{no:05}-of-{count:05}")
}

/// Up to three of `candidates` that `name` may be a slip of, best first. Case does not count.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|c| (similarity(&wanted, &c.to_lowercase()), c))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.truncate(SUGGESTIONS);
    scored.into_iter().map(|(_, c)| c).collect()
}

/// 0 to 1. A part of a name that stands in it as it is counts more than any slip.
fn similarity(a: &str, b: &str) -> f64 {
    let score = strsim::jaro_winkler(a, b).max(strsim::normalized_damerau_levenshtein(a, b));
    if a.len() >= 3 && b.contains(a) { score.max(0.95) } else { score }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_stem_without_the_part() {
        for (path, id) in [
            ("/m/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M"),
            ("Qwen2.5-1.5B.GGUF", "Qwen2.5-1.5B"),
            ("a/b-00001-of-00003.gguf", "b"),
            ("b-1-of-3.gguf", "b-1-of-3"),
            ("-00001-of-00003.gguf", "-00001-of-00003"),
            ("Qwen2.5-1.5B", "Qwen2.5-1.5B"),
            ("\u{20ac}.gguf", "\u{20ac}"),
            ("/", ""),
        ] {
            assert_eq!(model_id(path), id, "{path}");
        }
    }

    #[test]
    fn parts_of_a_split_name() {
        assert_eq!(split_part("x-y-00002-of-00010"), Some(("x-y", 2, 10)));
        assert_eq!(split_part("x-00002-of-0001"), None);
        assert_eq!(split_part("x-+0002-of-00010"), None);
        assert_eq!(part_name("x-y", 2, 10), "x-y-00002-of-00010");
    }

    #[test]
    fn nearest_names_come_best_first() {
        let all = ["http.listen", "http.max_body", "models.dirs", "log.level", "log.format"];
        assert_eq!(nearest("http.lisen", all)[0], "http.listen");
        assert_eq!(nearest("LOG.LEVEL", all)[0], "log.level");
        assert!(nearest("http.lisen", all).len() <= 3);
        assert!(nearest("zzzzqqq", all).is_empty());
        let models = ["Qwen3-8B-Q4_K_M", "gemma-3-270m-Q4_K_M", "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M"];
        assert_eq!(nearest("qwen3-8b", models)[0], "Qwen3-8B-Q4_K_M");
        assert_eq!(nearest("coder", models)[0], "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M");
    }
}
