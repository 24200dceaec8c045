//! placeholder until the archive is merged
/// Objects.
pub fn of(arch: &str) -> std::io::Result<Option<Vec<Vec<u8>>>> {
    let Some(dir) = std::env::var_os("RF_OBJ") else { return Ok(None) };
    let mut all = Vec::new();
    for e in std::fs::read_dir(dir)? {
        let p = e?.path();
        if p.to_string_lossy().ends_with(&format!(".{arch}.hsaco")) {
            all.push(std::fs::read(p)?);
        }
    }
    Ok(Some(all))
}
/// What is there.
pub fn describe() -> String {
    String::new()
}
