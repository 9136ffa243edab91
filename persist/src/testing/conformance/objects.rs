//! Checks of objects: what a shard needs of a store, without a shard. They use the store without faults.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::Setup;

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

async fn read(store: &dyn ObjectStore, path: &Path) -> Bytes {
    let object = store.get(path).await.expect("what was put can be read");
    object.bytes().await.expect("its bytes can be read")
}

async fn names(store: &dyn ObjectStore, prefix: Option<&Path>) -> Vec<String> {
    let listed = store
        .list(prefix)
        .map_ok(|object| object.location.to_string());
    let mut names: Vec<_> = listed.try_collect().await.expect("listing works");
    names.sort();
    names
}

/// A put that must not replace does not, and says so.
pub async fn a_create_happens_once(setup: &Setup) {
    let store = setup.folder("create");
    let path = Path::from("_delta_log/00000000000000000000.json");
    let put = |bytes: &'static str| store.put_opts(&path, bytes.into(), create());
    put("first").await.expect("nothing is there yet");
    let second = put("second").await;
    assert!(
        matches!(second, Err(Error::AlreadyExists { .. })),
        "a second create ended in {second:?}"
    );
    assert_eq!(read(&store, &path).await, "first");
    store.delete(&path).await.expect("it can be deleted");
    put("third").await.expect("nothing is there any more");
}

/// Of creates at the same time exactly one succeeds, and it is the one that is there.
pub async fn of_racing_creates_one_wins(setup: &Setup) {
    let store = setup.folder("creates");
    for round in 0..setup.rounds.min(10) {
        let path = Path::from(format!("{round:020}.json"));
        let racing = (0..setup.writers * 2).map(|writer| {
            let (store, path) = (&store, &path);
            async move {
                let body = format!("of writer {writer}");
                let put = store.put_opts(path, body.clone().into(), create()).await;
                (body, put)
            }
        });
        let mut winners = Vec::new();
        for (body, put) in join_all(racing).await {
            match put {
                Ok(_) => winners.push(body),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("a create that lost ended in {error}"),
            }
        }
        let found = read(&store, &path).await;
        assert_eq!(winners, [String::from_utf8_lossy(&found)], "round {round}");
    }
}

/// What a put reported is there at once: to be read, to be asked for, to be listed.
pub async fn what_was_put_is_listed_and_read(setup: &Setup) {
    let store = setup.folder("list");
    assert_eq!(names(&store, None).await, [""; 0], "the folder is fresh");
    let mut expected = Vec::new();
    for number in 0..25 {
        let path = Path::from(format!("{}/{number:02}", ["a", "b", "ab"][number % 3]));
        store
            .put(&path, format!("{number}").into())
            .await
            .expect("it is put");
        assert_eq!(read(&store, &path).await, format!("{number}"));
        let head = store.head(&path).await.expect("it is there");
        assert_eq!(head.size, format!("{number}").len() as u64);
        expected.push(path.to_string());
        expected.sort();
        assert_eq!(names(&store, None).await, expected);
    }
    // A prefix ends where a name ends.
    let a = expected
        .iter()
        .filter(|name| name.starts_with("a/"))
        .cloned();
    assert_eq!(
        names(&store, Some(&Path::from("a"))).await,
        a.collect::<Vec<_>>()
    );
    assert_eq!(names(&store, Some(&Path::from("c"))).await, [""; 0]);
    // A put replaces.
    let path = Path::from("a/00");
    store
        .put(&path, "new".into())
        .await
        .expect("it is replaced");
    assert_eq!(read(&store, &path).await, "new");
    assert_eq!(names(&store, None).await, expected);
}

/// A deleted object is gone at once, and one that is not there is deleted or not found.
pub async fn what_was_deleted_is_gone(setup: &Setup) {
    let store = setup.folder("delete");
    for name in ["a", "b", "c"] {
        store
            .put(&Path::from(name), name.into())
            .await
            .expect("it is put");
    }
    let path = Path::from("b");
    store.delete(&path).await.expect("it can be deleted");
    let gone = store.get(&path).await;
    assert!(
        matches!(gone, Err(Error::NotFound { .. })),
        "reading ended in {gone:?}"
    );
    assert_eq!(names(&store, None).await, ["a", "c"]);
    let again = store.delete(&path).await;
    assert!(
        matches!(again, Ok(()) | Err(Error::NotFound { .. })),
        "deleting it again ended in {again:?}"
    );
}

/// Parts of an object are those bytes of it.
pub async fn ranges_are_of_the_object(setup: &Setup) {
    let store = setup.folder("ranges");
    let (path, body) = (Path::from("x"), Bytes::from_static(b"0123456789"));
    store
        .put(&path, body.clone().into())
        .await
        .expect("it is put");
    for (from, to) in [(0, 10), (0, 1), (3, 7), (9, 10)] {
        let part = store
            .get_range(&path, from..to)
            .await
            .expect("a part can be read");
        assert_eq!(part, body.slice(from as usize..to as usize));
    }
    let parts = store
        .get_ranges(&path, &[1..3, 8..10])
        .await
        .expect("parts can be read");
    assert_eq!(parts, ["12", "89"]);
    // How Parquet's footer is found, unless the store cannot.
    let end = GetOptions {
        range: Some(GetRange::Suffix(4)),
        ..GetOptions::default()
    };
    match store.get_opts(&path, end).await {
        Ok(end) => assert_eq!(end.bytes().await.expect("the end can be read"), "6789"),
        Err(Error::NotSupported { .. }) => {}
        Err(error) => panic!("reading the end ended in {error}"),
    }
    let beyond = store.get_range(&path, 20..30).await;
    assert!(beyond.is_err(), "what is not there was read: {beyond:?}");
}

/// Names that need encoding, in a URL or in XML, are distinct and come back as they were.
pub async fn odd_names_are_names(setup: &Setup) {
    let store = setup.folder("odd");
    let odd = [
        "a b", "a+b", "a%20b", "a&b=c", "ü", "'quoted'", "(1)", "a,b;c", "a@b", "~a", "a!b$c",
        "日本",
    ];
    let mut expected = Vec::new();
    for name in odd {
        let path = Path::from(format!("x/{name}/{name}.parquet"));
        store
            .put(&path, name.into())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        expected.push(path.to_string());
    }
    expected.sort();
    assert_eq!(names(&store, Some(&Path::from("x"))).await, expected);
    for name in odd {
        let path = Path::from(format!("x/{name}/{name}.parquet"));
        assert_eq!(read(&store, &path).await, name);
        store
            .delete(&path)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(names(&store, None).await, [""; 0]);
}

/// A big object comes back as it was.
pub async fn big_objects_come_back(setup: &Setup) {
    let store = setup.folder("big");
    let path = Path::from("big");
    // No two pieces of it are alike.
    let numbers = 0..(setup.big_bytes as u64).div_ceil(8);
    let body: Bytes = numbers
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    store
        .put(&path, body.clone().into())
        .await
        .expect("it is put");
    assert!(read(&store, &path).await == body, "it came back changed");
    let middle = body.len() as u64 / 2;
    let part = store
        .get_range(&path, middle..middle + 8)
        .await
        .expect("a part can be read");
    assert_eq!(part, body.slice(body.len() / 2..body.len() / 2 + 8));
}
