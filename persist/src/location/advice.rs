//! What to do about a place that has something else than a shard is to have.

use super::address::local_directory;

/// How what is there makes room for a new table; it is somebody's, so it is not deleted.
pub(crate) fn make_room(url: &str) -> String {
    match local_directory(url) {
        Ok(Some(path)) => {
            let path = path.display().to_string();
            let (from, to) = (for_shell(&path), for_shell(&format!("{path}.moved")));
            format!(
                "nothing of it was changed; to have the table written anew, move it away with `mv {from} {to}` and start again"
            )
        }
        _ => "nothing of it was changed; to have the table written anew, move it away, or give another address".to_owned(),
    }
}

/// A path or an address as a shell takes it for one word.
pub fn for_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_a_command_that_a_shell_takes() {
        let advice = make_room("/data/q3");
        assert!(advice.contains("`mv /data/q3 /data/q3.moved`"), "{advice}");
        let advice = make_room("file:///data/Bob's%20q3");
        assert!(advice.contains(r"mv '/data/Bob'\''s q3' "), "{advice}");
        let advice = make_room("memory://q3");
        assert!(!advice.contains("mv ") && advice.contains("another address"));
        assert_eq!(for_shell(""), "''");
    }
}
