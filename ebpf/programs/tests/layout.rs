//! The Rust and the C side of the kernel boundary have the same layout: sizes and
//! offsets of `tenantry-abi` against the type information in the object itself.

use std::collections::HashMap;

use aya_obj::Object;
use tenantry_abi as abi;

/// A C struct: its size and its members' offsets.
struct Struct {
    size: usize,
    members: HashMap<String, usize>,
}

/// Structs by name, from BTF (kernel documentation: bpf/btf.rst).
fn structs(btf: &[u8]) -> HashMap<String, Struct> {
    let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().unwrap()) as usize;
    let header = word(4);
    let (types, types_len, strings) = (header + word(8), word(12), header + word(16));
    let text = |offset: usize| {
        let bytes = &btf[strings + offset..];
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let mut found = HashMap::new();
    let mut at = types;
    while at < types + types_len {
        let (name, info, size) = (word(at), word(at + 4), word(at + 8));
        let (kind, count) = (info >> 24 & 31, info & 0xffff);
        at += 12;
        if kind == 4 {
            // With bit 31 the upper byte of an offset is a bit field's width.
            let offset = |raw: usize| if info >> 31 == 1 { raw & 0xff_ffff } else { raw };
            let members = (0..count).map(|i| at + 12 * i);
            let members = members.map(|m| (text(word(m)), offset(word(m + 8)) / 8)).collect();
            found.insert(text(name), Struct { size, members });
        }
        at += match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            _ => 0,
        };
    }
    found
}

fn structs_of(object: &[u8]) -> HashMap<String, Struct> {
    let object = Object::parse(object).expect("an ELF object");
    structs(&object.btf.expect("the object carries BTF").to_bytes())
}

macro_rules! check {
    ($structs:expr, $name:literal, $type:ident { $($field:ident),+ }) => {{
        let c = $structs.get($name).unwrap_or_else(|| panic!("no struct {} in the object", $name));
        assert_eq!(c.size, size_of::<abi::$type>(), "size of {}", $name);
        let rust = [$((stringify!($field), std::mem::offset_of!(abi::$type, $field))),+];
        assert_eq!(c.members.len(), rust.len(), "number of members of {}", $name);
        for (field, offset) in rust {
            assert_eq!(c.members.get(field), Some(&offset), "{}.{field}", $name);
        }
    }};
}

#[test]
fn both_sides_of_the_kernel_boundary_have_the_same_layout() {
    let c = structs_of(tenantry_programs::METERS);
    check!(c, "tn_cgroup_key", CgroupKey { id, hierarchy, reserved });
    check!(
        c,
        "tn_slot_state",
        SlotState { armed, claimed, nsproxy, user_ns, calls_before, errors_before, own, others }
    );
    check!(c, "tn_namespace_key", NamespaceKey { slot, namespaces });
    check!(c, "tn_cgroup_event", CgroupEvent { change, slot, id, hierarchy, path_bytes, path });
    check!(c, "tn_cgroup_tail", CgroupTail { tail });
    check!(c, "tn_cgroup_scratch", CgroupScratch { event, name, tail });
    check!(c, "tn_histogram", Histogram { sum_ns, buckets });
    check!(c, "tn_error_cell", ErrorCell { count, key, reserved });
    check!(c, "tn_syscalls", Syscalls { count, errors, cells });
    check!(c, "tn_syscall_latency", SyscallLatency { classes });
    check!(c, "tn_timing", Timing { since_ns, sample, traces });
    check!(c, "tn_slot_trace", SlotTrace { since_ns, until_ns, row, reserved });
    check!(
        c,
        "tn_profile_control",
        ProfileControl { since_ns, recording, filtered, from_start, missed_before }
    );
    check!(c, "tn_profile", Profile { called, compat, unnoted, refusals_lost });
    check!(c, "tn_refused_key", RefusedKey { slot, nr });
    check!(c, "tn_refused", Refused { count, error, reserved });
    check!(c, "tn_trace_call", TraceCall { errors, latency });
    check!(
        c,
        "tn_scheduler",
        Scheduler { waits, on_cpu_ns, off_cpu_ns, voluntary, involuntary, migrations }
    );
    check!(c, "tn_blame_key", BlameKey { victim, culprit, resource });
    check!(c, "tn_causes", Causes { ns });
    check!(c, "tn_traffic", Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets });
    check!(c, "tn_network", Network { external, loopback, udp_external, udp_loopback, udp_drops });
    check!(c, "tn_disk_key", DiskKey { slot, major, minor, op });
    check!(c, "tn_disk", Disk { ios, bytes, errors, requeues, merges, in_flight, latency, queue });
    check!(c, "tn_request", Request { issued_ns, served_ns, bytes, asked_bytes, key });
    check!(c, "tn_event_counts", EventCounts { produced, lost, filtered });
    check!(
        c,
        "tn_call_shape",
        CallShape { kind, path, path_dir, target, target_dir, extra, descriptor, flags }
    );
    check!(c, "tn_prefix", Prefix { kinds, bytes, words, masks });
    check!(
        c,
        "tn_audit_filter",
        AuditFilter { kinds, opens, uid_first, uid_last, prefixed, reserved, syscalls_off, prefix }
    );
    check!(c, "tn_endpoint", Endpoint { family, port, address });
    check!(
        c,
        "tn_call",
        Call {
            event,
            result,
            args,
            inode,
            device,
            mode,
            nr,
            flags,
            open_flags,
            socket_type,
            protocol,
            local,
            remote,
            text_bytes,
            reserved
        }
    );
    check!(c, "tn_call_scratch", CallScratch { call, text });
    check!(c, "tn_trampoline_counts", TrampolineCounts { exec_attempts });
    check!(
        c,
        "tn_tcp",
        Tcp {
            generation,
            destinations,
            connects_begun,
            connects_established,
            connects_failed,
            accepts,
            closed,
            resets_received,
            resets_sent,
            retransmits,
            listen_overflows,
            failures,
            duration,
            other
        }
    );
    check!(c, "tn_destination_key", DestinationKey { slot, port, direction, family, address });
    check!(c, "tn_destination", Destination { connections, failures, sent_bytes, received_bytes });
    check!(c, "tn_tcp_rtt", TcpRtt { external, loopback });
    check!(c, "tn_dns_key", DnsKey { hash, slot, reserved });
    check!(c, "tn_dns_counts", DnsCounts { queries, answers, unanswered, latency });
    check!(c, "tn_dns_name", DnsName { counts, name, name_bytes, reserved });
    check!(c, "tn_dns", Dns { generation, names, other });
    check!(c, "tn_namespaces", Namespaces { mnt, pid, net, user, uts, ipc, cgroup });
    check!(
        c,
        "tn_event",
        Event {
            kind,
            slot,
            time_ns,
            cgroup_id,
            pid,
            tid,
            parent_pid,
            uid,
            container_pid,
            namespaces,
            comm,
            ancestors,
            ancestor,
            reserved
        }
    );
    check!(c, "tn_ancestor", Ancestor { pid, comm });
    check!(
        c,
        "tn_exec",
        Exec { event, inode, device, flags, path_bytes, argv_bytes, cwd_bytes, reserved }
    );
    check!(c, "tn_exec_scratch", ExecScratch { exec, text });
    check!(
        c,
        "tn_oom",
        Oom {
            event,
            anon_pages,
            file_pages,
            shmem_pages,
            swap_pages,
            limit_pages,
            usage_pages,
            cgroup_kills,
            trigger_pid,
            score_adjustment,
            trigger_comm
        }
    );
    check!(c, "tn_exit", Exit { event, wait_status, reserved });
}

#[test]
fn the_second_object_shares_the_first_ones_types() {
    let c = structs_of(tenantry_programs::TRAMPOLINES);
    check!(c, "tn_cgroup_key", CgroupKey { id, hierarchy, reserved });
    check!(c, "tn_trampoline_counts", TrampolineCounts { exec_attempts });
}

#[test]
fn objects_name_no_folder_of_the_machine_that_built_them() {
    let folder = env!("CARGO_MANIFEST_DIR").as_bytes();
    for object in [tenantry_programs::METERS, tenantry_programs::TRAMPOLINES] {
        assert!(!object.windows(folder.len()).any(|window| window == folder));
    }
}
