//! What a restored store says of the tasks that it holds.

use super::*;

#[tokio::test]
async fn a_task_says_that_it_is_held_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.submit(new_task("old")).await.unwrap();
    assert!(!store.task(None, "old").await.unwrap().unwrap().held);
    let backup = dir.path().join("backup.db");
    store.backup(&backup).await.unwrap();
    let again = dir.path().join("again.db");
    restore(&backup, &again, true).unwrap();
    let store = SqliteStore::open(&again, Options::default()).unwrap();
    store.submit(new_task("new")).await.unwrap();
    let held = async || {
        let page = store.list(Filter::default(), None, 10).await.unwrap();
        page.tasks.into_iter().map(|task| (task.id, task.held)).collect::<Vec<_>>()
    };
    assert_eq!(held().await, [("new".to_owned(), false), ("old".to_owned(), true)]);
    store.let_go().await.unwrap();
    assert_eq!(held().await, [("new".to_owned(), false), ("old".to_owned(), false)]);
}
