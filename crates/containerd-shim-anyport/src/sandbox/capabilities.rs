//! The capabilities of a process: five sets, of which a container has few.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::{Result, failed};

/// The sets that a process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    bounding: CapabilitySet,
    sets: CapabilitySets,
    ambient: CapabilitySet,
}

impl Wanted {
    /// Nothing said is none.
    pub(super) fn new(asked: Option<&LinuxCapabilities>) -> Self {
        let set = |of: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            let names = asked.and_then(|asked| of(asked).as_ref()).into_iter().flatten();
            names.fold(CapabilitySet::empty(), |set, capability| set | flag(*capability))
        };
        Self {
            bounding: set(LinuxCapabilities::bounding),
            sets: CapabilitySets {
                effective: set(LinuxCapabilities::effective),
                permitted: set(LinuxCapabilities::permitted),
                inheritable: set(LinuxCapabilities::inheritable),
            },
            ambient: set(LinuxCapabilities::ambient),
        }
    }

    /// What is left of them for this user. An engine describes what a program of the image would be started
    /// with, and starting one takes from every user but root all that is not ambient (`capabilities(7)`,
    /// "Transformation of capabilities during execve()"). Nothing is started here.
    pub(super) fn for_user(mut self, uid: u32) -> Self {
        if uid != 0 {
            self.sets.permitted &= self.ambient;
            self.sets.effective = self.sets.permitted;
        }
        self
    }

    /// Bounds what the process can ever have. This comes first: it needs a capability itself.
    pub(super) fn bound(&self) -> Result<()> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match capability_is_in_bounding_set(capability) {
                Ok(true) => {}
                Ok(false) => continue,
                // The kernel knows no more.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(failed("cannot read the bounding capabilities", errno)),
            }
            remove_capability_from_bounding_set(capability)
                .map_err(|errno| failed("cannot bound the capabilities", errno))?;
        }
        Ok(())
    }

    /// Keeps the asked ones, once the user is the container's. What the shim itself does not have, as
    /// in a container, it cannot give: that is left out.
    pub(super) fn keep(&self) -> Result<()> {
        let own = capabilities(None).map_err(|errno| failed("cannot read the capabilities", errno))?;
        let permitted = self.sets.permitted & own.permitted;
        // A process may inherit what it is permitted, or bounded to.
        let inheritable = self.sets.inheritable & own.permitted;
        let sets = CapabilitySets { effective: self.sets.effective & permitted, permitted, inheritable };
        set_capabilities(None, sets).map_err(|errno| failed("cannot drop capabilities", errno))?;
        clear_ambient_capability_set().map_err(|errno| failed("cannot drop the ambient capabilities", errno))?;
        for capability in (self.ambient & permitted & inheritable).iter() {
            configure_capability_in_ambient_set(capability, true)
                .map_err(|errno| failed("cannot keep the ambient capabilities", errno))?;
        }
        Ok(())
    }
}

fn flag(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}
