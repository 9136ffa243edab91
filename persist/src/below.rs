//! Which tables a directory, or a part of a bucket, has in it.

use futures::future::try_join_all;
use object_store::path::Path;
use object_store::{ListResult, ObjectStore};

use crate::client::Client;
use crate::error::{Error, is_below_a_file};
use crate::log::folder;
use crate::storage::{OnRetry, Storage};

impl Client {
    /// The addresses of the tables directly below `url`, in order. That there is a log is looked at, and not whether it
    /// can be read.
    ///
    /// # Errors
    /// [`Error::Url`] if it is no address, and permanent errors of the store.
    pub async fn shards_below(
        &self,
        url: &str,
        on_retry: OnRetry<'_>,
    ) -> Result<Vec<String>, Error> {
        let storage = self.storage(url)?;
        let Some(mut found) = storage.list_folder(&Path::default(), on_retry).await? else {
            return Ok(Vec::new());
        };
        found.common_prefixes.sort();
        let is_table = found.common_prefixes.into_iter().map(async |below| {
            let log = below.clone().join(folder().as_ref());
            let log = storage.list_folder(&log, on_retry).await?;
            let name = below.filename().unwrap_or_default().to_owned();
            let is_log = log.is_some_and(|log| !log.objects.is_empty());
            Ok::<_, Error>(is_log.then_some(name))
        });
        let tables = try_join_all(is_table).await?;
        let url = storage.url.trim_end_matches('/');
        Ok(tables
            .into_iter()
            .flatten()
            .map(|name| format!("{url}/{name}"))
            .collect())
    }
}

impl Storage {
    /// The objects and folders in a folder, `None` if there is none; tried until the store answers.
    async fn list_folder(
        &self,
        path: &Path,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<ListResult>, Error> {
        self.retry(on_retry, || async {
            match self.store.list_with_delimiter(Some(path)).await {
                Ok(found) => Ok(Some(found)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) if is_below_a_file(&error) => Ok(None),
                Err(error) => Err(self.error("list", path, error)),
            }
        })
        .await
    }
}
