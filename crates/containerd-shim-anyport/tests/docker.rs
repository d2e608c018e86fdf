//! Servers as containers of a real Docker Engine: what people do with `docker`, of two releases.
//!
//! Bodies look at what a container does for its clients and users, and at what the node has of it. Each has
//! containers of its own; those under `alone` count what there is on the node, or disturb it.

#[macro_use]
mod support;
#[path = "docker/document.rs"]
mod document;
#[path = "docker/exec.rs"]
mod exec;
#[path = "docker/failures.rs"]
mod failures;
#[path = "docker/isolation.rs"]
mod isolation;
#[path = "docker/leftovers.rs"]
mod leftovers;
#[path = "docker/lifecycle.rs"]
mod lifecycle;
#[path = "docker/limits.rs"]
mod limits;
#[path = "docker/listeners.rs"]
mod listeners;
#[path = "docker/network.rs"]
mod network;
#[path = "docker/start.rs"]
mod start;

use document::*;
use exec::*;
use failures::*;
use isolation::*;
use leftovers::*;
use lifecycle::*;
use limits::*;
use listeners::*;
use network::*;
use start::*;

behaviours! {
    trixie sid {
        three_lines_and_a_server_answers,
        every_address_of_the_machine_answers,
        the_platform_wasi_wasm_is_as_good,
        a_module_without_files_is_an_image,
        ten_containers_of_an_image_start_at_once,
        a_second_start_compiles_nothing,
        a_cgi_program_answers,
        components_of_every_world_answer,
        a_preview1_server_listens_on_8080,
        a_preview1_server_listens_on_port,
        a_preview1_server_listens_on_the_exposed_port,
        a_preview1_server_listens_where_an_annotation_says,
        a_preview1_server_listens_where_a_variable_says,
        logs_have_both_streams,
        a_container_ends_with_the_code_of_its_guest,
        a_trap_is_an_exit_code_and_a_backtrace,
        standard_input_reaches_the_guest,
        stop_lets_requests_end,
        kill_ends_at_once,
        restart_serves_again,
        a_paused_container_does_not_answer,
        a_failing_guest_is_started_again,
        a_terminal_shows_what_the_guest_says,
        stats_and_top_see_the_guest,
        memory_beyond_the_limit_ends_the_guest,
        a_limit_of_memory_can_be_changed,
        a_share_of_a_processor_is_a_share,
        arguments_environment_and_folder_are_the_guests,
        volumes_are_files_of_the_guest,
        a_root_that_is_read_only_takes_no_files,
        a_user_without_rights_serves,
        the_default_restrictions_hold,
        the_host_is_out_of_sight,
        the_network_of_the_host_is_shared,
        no_network_is_none,
        containers_find_each_other_by_name,
        compose_waits_until_a_service_is_healthy,
        ps_shows_the_guest,
        probe_tells_whether_a_server_answers,
        an_unknown_command_is_not_run,
        a_file_that_is_no_module_is_refused_in_words,
        an_entrypoint_that_is_missing_is_named,
        a_module_of_another_kind_is_refused_in_words,
    } alone {
        the_commands_of_the_document_work,
        a_container_leaves_nothing_behind,
        a_killed_shim_leaves_nothing_behind,
        fifty_killed_containers_leave_nothing_behind,
        containers_outlive_containerd,
    }
}
