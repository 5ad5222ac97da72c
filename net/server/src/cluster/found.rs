//! The catalog that a cluster begins with: that of the node which was alone until now.

use std::{path::Path, time::Duration};

use anyhow::bail;
use catena_blocking::{Folder, Heap};
use catena_log::{Now, io::Done};
use catena_node::Limits;
use catena_replication::control::{Catalog, NodeProfile, Orderer, OrdererEvent};

use crate::{identity::Identity, machine::wall_clock, serve::CatalogClosed};

/// Opens the catalog of a node alone, as its next start would, which this is: nothing that was
/// given in any life of it is given again.
///
/// # Errors
/// Why it cannot be opened.
pub(super) fn catalog(
    root: &Path,
    identity: &Identity,
    profile: &NodeProfile,
) -> anyhow::Result<Catalog> {
    let node = identity.node;
    let segment = Limits::default().catalog_segment_bytes;
    let create = !identity.founded;
    let folder = Folder::new(root.join("meta").join("catalog"));
    let mut orderer = Orderer::new(node.cluster, node.node, segment, create, Heap);
    let now = Now { wall: wall_clock(), monotonic: Duration::ZERO };
    loop {
        while let Some(event) = orderer.poll_event() {
            match event {
                OrdererEvent::Failed(error) => bail!(CatalogClosed(error)),
                OrdererEvent::Poisoned(error) => bail!("the catalog cannot be written: {error}"),
                OrdererEvent::Started => {
                    let mut catalog = orderer.catalog().clone();
                    // Its life as one of a cluster is yet to begin.
                    catalog.found(node.node, 0, profile.clone());
                    return Ok(catalog);
                }
                OrdererEvent::Opened(_) | OrdererEvent::Applied(..) => {}
            }
        }
        let Some((id, op)) = orderer.poll_op() else { bail!("the catalog is not opened") };
        let result = folder.perform(op);
        orderer.on_done(Done { id, result }, now);
    }
}
