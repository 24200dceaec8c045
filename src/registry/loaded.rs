//! placeholder until merges
/// x
#[derive(Debug)]
pub struct Loaded;
impl super::loader::Resident for Loaded {
    fn facts(&self) -> std::sync::Arc<super::loader::Facts> {
        Default::default()
    }
    fn device(&self) -> String {
        String::new()
    }
    fn context(&self) -> u32 {
        0
    }
    fn stats(&self) -> crate::proto::admin::ModelStats {
        Default::default()
    }
    fn requests(&self) -> Vec<crate::proto::admin::RequestInfo> {
        vec![]
    }
    fn cancel(&self, _: &str) -> bool {
        false
    }
    fn failed(&self) -> Option<String> {
        None
    }
    fn late(&self) -> Option<std::time::Duration> {
        None
    }
    fn release_idle(&self) {}
    fn stop(&self, _: bool) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async {})
    }
}
