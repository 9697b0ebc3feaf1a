//! The programs on the running kernel, with cgroups and processes of the tests' own and
//! witnesses that know nothing of eBPF. As root; without, each test says what it lacks.

mod audit_calls;
mod blame;
mod cgroups;
mod child;
mod cost;
mod cpu_group;
mod destinations;
mod disk;
mod disk_blame;
mod disk_operations;
mod dns;
mod fixture;
mod foreign;
mod groups;
mod link;
mod loaded;
mod loop_device;
mod namespaces;
mod network;
mod network_blame;
mod network_blame_sum;
mod oom;
mod pinning;
mod processes;
mod profile;
mod scheduler;
mod socket;
mod switch;
mod syscalls;
mod tcp;
mod trace;
mod trampolines;
mod udp;
mod witness;
