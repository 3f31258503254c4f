//! The membership service of the leader, as a member knows it.

use tonic::transport::Channel;

use super::local::Local;
use crate::discovery::{Path, PeerChannels};
use crate::limits;
use crate::proto::peer::membership_client::MembershipClient;

/// The name by which the leader's pod is asked, and its service.
///
/// # Errors
/// If no leader is known, or nobody knows where it is.
pub(super) fn at_leader(
    local: &dyn Local,
    channels: &PeerChannels,
) -> Result<(String, MembershipClient<Channel>), String> {
    let leader = local.consensus().and_then(|view| view.leader).ok_or("no leader is known")?;
    let directory = channels.book().directory();
    let membership = local.disk().membership;
    let address = membership.member(leader).map(|member| member.peer_address.as_str());
    let peer =
        directory.peer_at(leader.ordinal(), address).ok_or_else(|| format!("{leader} has no address"))?;
    let client = MembershipClient::new(channels.channel(&peer, Path::Data))
        .max_decoding_message_size(limits::HELLO_BYTES);
    Ok((directory.name_of(&peer), client))
}
