//! A claim waits for other processes, not for the one that makes it.

use std::path::Path;

use catena_log::io::{FileName, Op, Outcome};
use catena_uring::{Hands, HandsOptions};
use glommio::LocalExecutorBuilder;

const OPTIONS: HandsOptions =
    HandsOptions { descriptors: 16, memory_bytes: 1 << 20, disk_reserve_bytes: 0 };

async fn read_and_claim(root: &Path) {
    let hands = Hands::start(root, OPTIONS).await.expect("direct I/O");
    let folder = hands.folder(root.join("log"));
    let file = FileName::parse("0000000000000001.seg").expect("a name");
    let mut extend = Op::Extend { file, from: Default::default(), to: Default::default() };
    if let Op::Extend { to, .. } = &mut extend {
        *to = to.plus(8192);
    }
    folder.perform(Op::List).await.expect("the directory");
    folder.perform(extend).await.expect("the file");
    for _ in 0..2 {
        let position = Default::default();
        let read = folder.perform(Op::Read { file, position, length: 8192 }).await;
        assert!(matches!(read, Ok(Outcome::Read(bytes)) if bytes.as_ref() == [0; 8192]));
        folder.perform(Op::Claim { file }).await.expect("nobody else has it");
    }
    folder.close().await;
}

#[test]
fn a_file_that_was_read_can_be_claimed() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = root.path().to_path_buf();
    let executor = LocalExecutorBuilder::default();
    let ran = executor.spawn(move || async move { read_and_claim(&path).await });
    ran.expect("an executor").join().expect("it ends");
}
