//! The writer of a loader that writes behind. Its journal has one for as long as the server runs, while the loader behind it may be
//! exchanged for one with other connections to the same database.

use leasehold_loader_api::{Change, LoadRequest, Loaded, Loader, Step, Stepped, WriteError, Writes};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

/// See the module.
pub(crate) struct Writer {
    loader: RwLock<Arc<dyn Loader>>,
}

impl Writer {
    pub(crate) fn new(loader: Arc<dyn Loader>) -> Self {
        Self { loader: RwLock::new(loader) }
    }

    /// What begins from now on goes this way.
    pub(crate) fn exchange(&self, loader: Arc<dyn Loader>) {
        *self.loader.write().unwrap_or_else(PoisonError::into_inner) = loader;
    }

    fn now(&self) -> Arc<dyn Loader> {
        Arc::clone(&self.loader.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loader for Writer {
    fn matches(&self, key: &[u8]) -> bool {
        self.now().matches(key)
    }

    fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
        let loader = self.now();
        Box::pin(async move { loader.load(request).await })
    }

    fn batch_max(&self) -> usize {
        self.now().batch_max()
    }

    fn explain(&self, key: &[u8]) -> Vec<(&'static str, String)> {
        self.now().explain(key)
    }

    fn health(&self) -> Result<(), String> {
        self.now().health()
    }

    fn writes(&self) -> Writes {
        self.now().writes()
    }

    fn write(&self, changes: Vec<Change>) -> Pin<Box<dyn Future<Output = Result<Vec<u64>, WriteError>> + Send + '_>> {
        let loader = self.now();
        Box::pin(async move { loader.write(changes).await })
    }

    fn write_step(
        &self,
        changes: Vec<Change>,
        step: Step,
    ) -> Pin<Box<dyn Future<Output = Result<Stepped, WriteError>> + Send + '_>> {
        let loader = self.now();
        Box::pin(async move { loader.write_step(changes, step).await })
    }

    fn position(&self, journal: String) -> Pin<Box<dyn Future<Output = Result<u64, WriteError>> + Send + '_>> {
        let loader = self.now();
        Box::pin(async move { loader.position(journal).await })
    }
}
