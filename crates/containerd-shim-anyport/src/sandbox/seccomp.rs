//! The filter of system calls of a container's profile.
//!
//! It is one program, with the rules in the order of their numbers: what is asked first is whether
//! the call is one of this machine's own kind, then whether the profile can have known it at all.
//! The comparison of arguments is seccompiler's, all else is put together here, since a profile has
//! an action for each of its rules and not one for all.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};

use super::{Result, failed, refused, sys, syscalls};

/// The kernel takes no longer programs.
const INSTRUCTIONS_MAX: usize = 4096;

#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

/// Calls of x86-64 with 32-bit pointers have this bit in their number.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// Where the kernel puts what is asked.
const NUMBER_OFFSET: u32 = 0;
const MACHINE_OFFSET: u32 = 4;

/// A profile, as the kernel wants it.
#[derive(Debug)]
pub(super) struct Filter {
    program: BpfProgram,
    flags: libc::c_ulong,
}

impl Filter {
    /// Understands a profile.
    ///
    /// For one call, rules with conditions are tried in their order, then one without. Names that the
    /// machine does not have are left out. Calls that are newer than all that the profile names do
    /// not exist (ENOSYS) rather than being forbidden: so programs use the older ones instead.
    pub(super) fn new(profile: &LinuxSeccomp) -> Result<Self> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
        for rule in profile.syscalls().iter().flatten() {
            add(&mut calls, rule)?;
        }
        let program = program(calls, default);
        if program.len() > INSTRUCTIONS_MAX {
            let length = program.len();
            return Err(refused(format!(
                "the seccomp profile is too long: {length} instructions, of at most {INSTRUCTIONS_MAX}"
            )));
        }
        Ok(Self { program, flags: flags(profile.flags().as_deref()) })
    }

    /// Puts the calling thread, and all that it will start, under the filter. It has `no_new_privs`.
    pub(super) fn install(&self) -> Result<()> {
        sys::install_filter(&self.program, self.flags)
            .map_err(|error| failed("cannot install the seccomp profile", error))
    }
}

/// What is said of one system call.
#[derive(Debug, Default)]
struct Call {
    conditional: Vec<(SeccompRule, u32)>,
    otherwise: Option<u32>,
}

fn add(calls: &mut BTreeMap<u32, Call>, rule: &LinuxSyscall) -> Result<()> {
    let action = action(rule.action(), rule.errno_ret())?;
    let arguments = rule.args().as_deref().unwrap_or_default();
    let rules = conditions(arguments)?;
    for number in rule.names().iter().filter_map(|name| syscalls::number(name)) {
        let call = calls.entry(number).or_default();
        if rules.is_empty() {
            // Of two that contradict each other the stricter one counts, as in the kernel.
            let stricter = |now: u32| if now.cast_signed() < action.cast_signed() { now } else { action };
            call.otherwise = Some(call.otherwise.map_or(action, stricter));
        } else {
            call.conditional.extend(rules.iter().map(|rule| (rule.clone(), action)));
        }
    }
    Ok(())
}

/// All conditions of a rule must hold. But if one argument is in several of them, any one of the
/// conditions is enough: that is what runc makes of such a rule, and so what profiles mean.
fn conditions(arguments: &[LinuxSeccompArg]) -> Result<Vec<SeccompRule>> {
    let mut conditions = Vec::new();
    for argument in arguments {
        let (operator, value) = match argument.op() {
            Operator::ScmpCmpNe => (SeccompCmpOp::Ne, argument.value()),
            Operator::ScmpCmpLt => (SeccompCmpOp::Lt, argument.value()),
            Operator::ScmpCmpLe => (SeccompCmpOp::Le, argument.value()),
            Operator::ScmpCmpEq => (SeccompCmpOp::Eq, argument.value()),
            Operator::ScmpCmpGe => (SeccompCmpOp::Ge, argument.value()),
            Operator::ScmpCmpGt => (SeccompCmpOp::Gt, argument.value()),
            Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(argument.value()), argument.value_two().unwrap_or(0)),
        };
        let wrong = || refused(format!("a rule of the seccomp profile compares argument {}", argument.index()));
        let index = u8::try_from(argument.index()).map_err(|_| wrong())?;
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(|_| wrong())?;
        conditions.push((index, condition));
    }
    let mut indices: Vec<u8> = conditions.iter().map(|(index, _)| *index).collect();
    indices.sort_unstable();
    indices.dedup();
    let is_any = indices.len() < conditions.len();
    let conditions = conditions.into_iter().map(|(_, condition)| condition);
    let groups: Vec<Vec<SeccompCondition>> =
        if is_any { conditions.map(|condition| vec![condition]).collect() } else { vec![conditions.collect()] };
    let rules = groups
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(SeccompRule::new)
        .collect::<std::result::Result<_, _>>();
    rules.map_err(|error| refused(format!("the seccomp profile is not understood: {error}")))
}

/// What the kernel is answered.
fn action(action: Action, errno: Option<u32>) -> Result<u32> {
    let data = errno.unwrap_or(libc::EPERM.cast_unsigned()) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => {
            return Err(refused(
                "the seccomp profile asks another process (`SCMP_ACT_NOTIFY`), which anyport does not",
            ));
        }
    })
}

/// Unless a profile says which flags, the processor may speculate as it always does, as with runc.
fn flags(asked: Option<&[Flag]>) -> libc::c_ulong {
    let Some(asked) = asked else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW };
    asked.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                // There is one thread, and nobody who is asked.
                Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    })
}

fn program(calls: BTreeMap<u32, Call>, default: u32) -> BpfProgram {
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let mut program = vec![
        load(MACHINE_OFFSET),
        jump(libc::BPF_JEQ, MACHINE, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_OFFSET),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([jump(libc::BPF_JGE, X32_BIT, 0, 1), answer(unknown)]);
    let is_errno = default & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO;
    if let Some(last) = calls.keys().next_back().filter(|_| is_errno) {
        program.extend([jump(libc::BPF_JGT, *last, 0, 1), answer(unknown)]);
    }
    let mut run: Option<(u32, u32, u32)> = None;
    for (number, call) in calls {
        if !call.conditional.is_empty() {
            end_run(&mut program, run.take());
            program.extend(one_by_one(number, call, default));
            continue;
        }
        let Some(action) = call.otherwise.filter(|action| *action != default) else { continue };
        run = match run {
            Some((first, last, same)) if same == action && last + 1 == number => Some((first, number, action)),
            other => {
                end_run(&mut program, other);
                Some((number, number, action))
            }
        };
    }
    end_run(&mut program, run);
    program.push(answer(default));
    program
}

/// Neighbours that are answered alike are asked for once.
fn end_run(program: &mut BpfProgram, run: Option<(u32, u32, u32)>) {
    match run {
        None => {}
        Some((first, last, action)) if first == last => {
            program.extend([jump(libc::BPF_JEQ, first, 0, 1), answer(action)]);
        }
        Some((first, last, action)) => {
            program.extend([jump(libc::BPF_JGE, first, 0, 2), jump(libc::BPF_JGT, last, 1, 0), answer(action)]);
        }
    }
}

/// A call whose arguments are looked at. None of these instructions is left but by an answer, since
/// the number is no longer loaded after them.
fn one_by_one(number: u32, call: Call, default: u32) -> BpfProgram {
    let mut rules = BpfProgram::new();
    for (rule, action) in call.conditional {
        // What does not hold jumps over the answer that follows.
        rules.extend(BpfProgram::from(rule));
        rules.push(answer(action));
    }
    rules.push(answer(call.otherwise.unwrap_or(default)));
    // A conditional jump cannot be so long.
    let length = u32::try_from(rules.len()).unwrap_or(u32::MAX);
    let mut program = vec![jump(libc::BPF_JEQ, number, 1, 0), instruction(libc::BPF_JMP | libc::BPF_JA, length, 0, 0)];
    program.append(&mut rules);
    program
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn jump(comparison: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, value, if_true, if_false)
}

fn answer(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = u16::try_from(code).expect("the codes of the kernel's filters have 16 bits");
    sock_filter { code, jt, jf, k }
}
