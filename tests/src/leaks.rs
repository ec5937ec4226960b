//! Looks for names of the inside in what is published.
//!
//! Knows: every file of a publication, byte by byte. Refuses to know: which page is about what.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Reads every file below `dir`, and fails at the first that contains one of `names`. Gives the number of files.
///
/// # Errors
/// A file cannot be read, or names something of the inside.
pub fn scan(dir: &Path, names: &[String]) -> Result<usize> {
    let mut open = vec![dir.to_owned()];
    let mut scanned = 0;
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("failed to list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let body = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            let text = String::from_utf8_lossy(&body);
            let found = names.iter().find(|name| text.contains(name.as_str()));
            ensure!(found.is_none(), "{} names `{}`", path.display(), found.map_or("", String::as_str));
            scanned += 1;
        }
    }
    Ok(scanned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_any_file_is_found() {
        let dir = std::env::temp_dir().join(format!("bcp-leaks-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("en/service")).unwrap();
        std::fs::write(dir.join("en/service/index.html"), "all is well at crac-a1").unwrap();
        let names = |name: &str| vec![name.to_owned()];
        assert_eq!(scan(&dir, &names("ups-a1")).unwrap(), 1);
        assert!(scan(&dir, &names("crac-a1")).unwrap_err().to_string().contains("crac-a1"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
