//! The conformance suite against each backend.

mod sqlite {
    use std::path::Path;
    use std::sync::Arc;

    use mote::store::Store;
    use mote::store::sqlite::{Options, SqliteStore};
    use system_tests::conformance::Bench;

    struct Directory(tempfile::TempDir);

    #[async_trait::async_trait]
    impl Bench for Directory {
        async fn open(&self) -> Arc<dyn Store> {
            self.open_backup(&self.0.path().join("store.db")).await
        }

        async fn open_backup(&self, backup: &Path) -> Arc<dyn Store> {
            Arc::new(SqliteStore::open(backup, Options::default()).unwrap())
        }

        fn scratch(&self) -> &Path {
            self.0.path()
        }
    }

    system_tests::store_conformance!(Directory(tempfile::tempdir().unwrap()));
}
