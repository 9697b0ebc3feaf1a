//! Token buckets and the redirect to an ifb: each function is one netlink request.
//!
//! Owns the messages' contents. No crate writes TBF's options; they are laid out
//! here after `struct tc_tbf_qopt` (linux/pkt_sched.h). Decides nothing.

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use crate::decode::{self, Qdisc, TCA_TBF_BURST, TCA_TBF_PARMS, TCA_TBF_RATE64};
use crate::error::Result;
use crate::netlink::{Netlink, about};
use crate::rate::Bucket;

const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// `ETH_P_ALL`, in network byte order as `tcm_info` wants it.
const ALL_PROTOCOLS: u16 = 0x0003u16.to_be();
const REDIRECT_PRIORITY: u16 = 1;
const LINKLAYER_ETHERNET: u8 = 1;
const ETHERNET_HEADER_BYTES: i32 = 14;
const TCA_STAB_BASE: u16 = 1;

/// The qdisc that a link sends through, if it is not the kernel's own.
pub(crate) fn read_root(netlink: &mut Netlink, index: u32, name: &str) -> Result<Option<Qdisc>> {
    read(netlink, index, TcHandle::ROOT, name)
}

pub(crate) fn read_ingress(netlink: &mut Netlink, index: u32, name: &str) -> Result<Option<Qdisc>> {
    read(netlink, index, TcHandle::INGRESS, name)
}

fn read(netlink: &mut Netlink, index: u32, parent: TcHandle, name: &str) -> Result<Option<Qdisc>> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = parent;
    let answer = netlink.get(
        about("read qdisc of", name),
        Message::GetQueueDiscipline(message),
        decode::qdisc,
    );
    match answer {
        // None there; or (EINVAL) a built-in one, of which the kernel does not speak.
        Err(e)
            if [Errno::NOENT, Errno::INVAL].iter().any(|n| e.errno() == Some(n.raw_os_error())) =>
        {
            Ok(None)
        }
        other => other,
    }
}

/// Creates it, changes it in place when `major` is the present one's, or puts a
/// new one in its place (dropping what is queued) when not.
pub(crate) fn set_tbf(
    netlink: &mut Netlink,
    index: u32,
    name: &str,
    major: u16,
    bucket: &Bucket,
) -> Result<()> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major, minor: 0 };
    message.attributes = vec![
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Options(tbf_options(bucket)),
        TcAttribute::Stab(size_table()),
    ];
    netlink.change(
        about("set token bucket of", name),
        Message::NewQueueDiscipline(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// `TCA_STAB` with a `struct tc_sizespec` (24 bytes) and no table: a packet
/// weighs what its socket buffer holds, less the Ethernet header (`rate`).
fn size_table() -> Vec<u8> {
    let mut base = [0u8; 24];
    base[4..8].copy_from_slice(&(-ETHERNET_HEADER_BYTES).to_ne_bytes());
    base[8..12].copy_from_slice(&u32::from(LINKLAYER_ETHERNET).to_ne_bytes());
    let base = DefaultNla::new(TCA_STAB_BASE, base.to_vec());
    let mut bytes = vec![0; base.buffer_len()];
    base.emit(&mut bytes);
    bytes
}

/// With `TCA_TBF_BURST` the kernel computes the buffer's time itself.
fn tbf_options(bucket: &Bucket) -> Vec<TcOption> {
    let rate32 = u32::try_from(bucket.rate_bytes_per_s).unwrap_or(u32::MAX);
    let mut parameters = [0u8; 36];
    parameters[1] = LINKLAYER_ETHERNET;
    parameters[8..12].copy_from_slice(&rate32.to_ne_bytes());
    parameters[24..28].copy_from_slice(&bucket.queue_bytes.to_ne_bytes());
    let raw = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
    let mut options = vec![
        raw(TCA_TBF_PARMS, &parameters),
        raw(TCA_TBF_BURST, &bucket.burst_bytes.to_ne_bytes()),
    ];
    if rate32 == u32::MAX {
        options.push(raw(TCA_TBF_RATE64, &bucket.rate_bytes_per_s.to_ne_bytes()));
    }
    options
}

pub(crate) fn delete_root(netlink: &mut Netlink, index: u32, name: &str) -> Result<()> {
    delete(netlink, index, TcHandle::ROOT, name)
}

/// Its filters go with it.
pub(crate) fn delete_ingress(netlink: &mut Netlink, index: u32, name: &str) -> Result<()> {
    delete(netlink, index, TcHandle::INGRESS, name)
}

fn delete(netlink: &mut Netlink, index: u32, parent: TcHandle, name: &str) -> Result<()> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = parent;
    netlink.change(about("delete qdisc of", name), Message::DelQueueDiscipline(message), 0)
}

pub(crate) fn add_ingress(netlink: &mut Netlink, index: u32, name: &str) -> Result<()> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = INGRESS_HANDLE;
    message.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    netlink.change(
        about("add ingress qdisc to", name),
        Message::NewQueueDiscipline(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// All that the link receives goes out through `target` first, `tc filter add
/// … parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect`.
pub(crate) fn add_redirect(
    netlink: &mut Netlink,
    index: u32,
    name: &str,
    target: u32,
) -> Result<()> {
    let mut everything = TcU32Selector::default();
    everything.flags = TcU32SelectorFlags::Terminal;
    everything.nkeys = 1;
    everything.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = target;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    let mut message = filters_of(index);
    message.header.info = u32::from(TcHandle { major: REDIRECT_PRIORITY, minor: ALL_PROTOCOLS });
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    netlink.change(
        about("add redirect to", name),
        Message::NewTrafficFilter(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Where the link's redirect leads, if it has one.
pub(crate) fn read_redirect(netlink: &mut Netlink, index: u32, name: &str) -> Result<Option<u32>> {
    let targets = netlink.dump(
        about("list filters of", name),
        Message::GetTrafficFilter(filters_of(index)),
        decode::redirect_target,
    )?;
    Ok(targets.first().copied())
}

fn filters_of(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = INGRESS_HANDLE;
    message
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Nla;

    use super::*;
    use crate::rate::{MAX_BITS_PER_S, MIN_BITS_PER_S};

    fn emitted(options: &[TcOption]) -> Vec<(u16, Vec<u8>)> {
        options
            .iter()
            .map(|o| {
                let mut value = vec![0; o.value_len()];
                o.emit_value(&mut value);
                assert_eq!(o.buffer_len() % 4, 0);
                (o.kind(), value)
            })
            .collect()
    }

    #[test]
    fn the_size_table_takes_14_bytes_off_each_packet() {
        let bytes = size_table();
        assert_eq!((bytes.len(), bytes[0], bytes[2]), (28, 28, 1));
        assert_eq!(bytes[8..12], (-14i32).to_ne_bytes());
    }

    #[test]
    fn a_bucket_is_laid_out_as_the_kernel_reads_it() {
        let options = emitted(&tbf_options(&Bucket::for_rate(20_000_000)));
        assert_eq!(options.len(), 2);
        assert_eq!(options[0].0, TCA_TBF_PARMS);
        assert_eq!(options[0].1[8..12], 2_500_000u32.to_ne_bytes());
        assert_eq!(options[0].1[24..28], 250_000u32.to_ne_bytes());
        assert_eq!(options[1], (TCA_TBF_BURST, 125_000u32.to_ne_bytes().to_vec()));

        assert_eq!(emitted(&tbf_options(&Bucket::for_rate(MIN_BITS_PER_S))).len(), 2);
        let fast = emitted(&tbf_options(&Bucket::for_rate(MAX_BITS_PER_S)));
        assert_eq!(fast[0].1[8..12], u32::MAX.to_ne_bytes());
        assert_eq!(fast[2], (TCA_TBF_RATE64, 12_500_000_000u64.to_ne_bytes().to_vec()));
    }
}
