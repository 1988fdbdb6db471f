//! The id of a request. The caller gets it in the answer, and each log line about the request has it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::ids::Rng;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of a request: visible ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Bytes);

impl RequestId {
    /// Creates an id. `None` if it contains anything but visible ASCII characters.
    pub fn new(id: impl Into<Bytes>) -> Option<Self> {
        let id = id.into();
        id.iter().all(u8::is_ascii_graphic).then_some(Self(id))
    }

    /// The id of the request that the current task handles. `None` in any other task.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `work` with this id as the current one.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self, work)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // ASCII is UTF-8, so the default is never used.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id as bytes that share its memory.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Generates request ids: unique in this process, and almost certainly unique among processes.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl RequestIds {
    /// Creates the generator of this process.
    ///
    /// # Errors
    /// When the operating system cannot provide random bytes.
    pub fn new(rng: &Rng) -> Result<Self, std::io::Error> {
        Ok(Self { process: u64::from_le_bytes(rng.bytes()?), count: AtomicU64::new(1) })
    }

    /// The next id: 24 hexadecimal digits, and more after 2^32 ids.
    pub fn next(&self) -> RequestId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{:016x}{count:08x}", self.process).into())
    }
}

/// Formats ids with spaces between them, only when the result is displayed.
pub fn list<'a>(ids: impl Iterator<Item = &'a RequestId> + Clone) -> impl fmt::Display {
    fmt::from_fn(move |formatter| {
        for (index, id) in ids.clone().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(formatter, "{separator}{id}")?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_contain_visible_ascii_characters_only() {
        assert_eq!(RequestId::new("my-id_1.2:3").unwrap().as_str(), "my-id_1.2:3");
        for id in ["a b", "a\n", "é", "\u{7f}"] {
            assert_eq!(RequestId::new(id), None, "{id:?}");
        }
    }

    #[test]
    fn a_list_has_spaces_between_ids() {
        let ids: Vec<RequestId> = ["a", "b", "c"].into_iter().filter_map(RequestId::new).collect();
        assert_eq!(list(ids.iter()).to_string(), "a b c");
        assert_eq!(list(ids[..0].iter()).to_string(), "");
    }

    #[tokio::test]
    async fn the_current_id_is_known_only_in_its_scope() {
        let id = RequestId::new("a").unwrap();
        let inside = id.clone().scope(async { RequestId::current() }).await;
        assert_eq!((inside, RequestId::current()), (Some(id), None));
    }
}
