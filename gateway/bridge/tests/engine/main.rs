//! The engine with its real solver and sandbox. Frontend images come from local directories (a
//! named context), so no registry is needed. Needs root, as the sandbox's own tests.
//!
//! A `main` of its own, because the launcher of sandboxes is a copy of the running program.

mod both;
mod builds;
mod clients;
mod containers;
mod points;
mod rig;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

/// No build here takes seconds: a longer one hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! tests {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        &[$((stringify!($name), || Box::pin($module::$name()))),+]
    };
}

type Test = fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

const TESTS: &[(&str, Test)] = tests![
    builds::a_builtin_frontend_reads_the_context_and_returns_it,
    builds::a_panicking_builtin_is_an_error,
    builds::p29_an_unknown_frontend_is_refused_by_name,
    builds::p18_gateway_devel_is_refused,
    builds::a_missing_source_is_refused,
    builds::p17_a_source_outside_the_list_is_refused,
    builds::p01_images_of_all_ages_run_in_the_sandbox,
    builds::p08_p09_p14_the_process_is_what_the_protocol_says,
    builds::p10_p11_p13_entrypoint_network_and_own_image_come_with_the_image,
    builds::p52_p48_a_nested_image_is_returned_by_the_outer_frontend,
    builds::p38_inputs_reach_a_nested_frontend,
    builds::frontends_that_call_themselves_end_at_a_limit,
    builds::a_missing_entrypoint_is_named_with_its_image,
    builds::p22_p53_an_exit_code_comes_with_the_last_output,
    builds::p24_text_on_stdout_is_quoted,
    builds::p23_cancelling_kills_the_frontend_within_a_second,
    builds::policies_of_a_request_hold_for_it_and_for_the_frontend_it_calls,
    builds::policies_of_the_build_hold_for_every_frontend,
    builds::p26_a_broken_definition_fails_on_first_use,
    containers::p40_a_container_on_a_mount_id_shows_the_failed_steps_files,
    containers::p40_a_failed_file_action_leaves_its_files_to_look_at,
    containers::p40_mounts_are_private_copies_and_readable_from_outside,
    containers::p41_events_come_in_the_order_of_the_protocol,
    containers::p41_further_processes_join_the_first_and_end_with_it,
    containers::p41_a_killed_process_is_137_and_a_missing_program_1,
    containers::p41_a_terminal_tells_its_size_and_its_changes,
    containers::p41_defaults_secrets_hosts_and_host_name,
    containers::p41_an_agents_socket_reaches_a_container_and_only_the_one_that_asks,
    containers::p41_containers_run_for_an_ordinary_user,
    containers::p41_what_the_build_may_not_do_is_refused,
    containers::p41_messages_out_of_order_end_the_stream_at_once,
    containers::p42_what_a_frontend_leaves_running_ends_with_it,
    containers::p41_a_stream_of_messages_that_make_no_sense_ends_with_their_code,
    containers::p41_containers_have_one_id_each_and_are_released_once,
    points::p20_a_file_larger_than_a_message_is_resource_exhausted_and_read_in_ranges,
    points::p34_files_are_read_whole_in_ranges_and_through_links,
    points::p34_no_path_and_no_link_leads_out_of_the_root,
    points::p35_directories_are_one_sorted_level_of_base_names,
    points::p35_stat_follows_links_and_tells_gos_mode_bits,
    points::p39_a_failed_step_tells_its_op_its_vertex_and_its_exit_code,
    points::p43_a_warning_reaches_the_client_with_its_place,
    points::p43_many_large_warnings_come_without_their_files,
    points::p44_a_failing_step_tells_its_lines_of_the_build_file,
    points::p47_several_refs_need_the_list_of_their_platforms_and_keep_its_order,
    points::p49_answers_to_subrequests_reach_the_client_unchanged,
    points::p51_refs_of_a_frontend_mean_nothing_to_another,
    points::p51_frontends_at_once_end_each_in_their_own_way,
    points::what_a_frontend_returned_names_it_when_it_fails_later,
    points::caches_that_a_solve_names_are_shown_once_and_never_fail_it,
    clients::p50_a_client_is_the_frontend_of_its_own_build_over_a_socket,
    clients::p50_calls_name_their_build_and_may_come_before_it,
    clients::p50_two_builds_share_a_connection_but_no_refs,
];

fn main() {
    gateway_sandbox::maybe_run_zygote();
    // For an ordinary user all that follows runs in a user namespace, as the program itself does.
    match gateway_sandbox::rootless::enter_user_namespace(&Default::default()) {
        Ok(None) => {}
        Ok(Some(code)) => std::process::exit(if code == std::process::ExitCode::SUCCESS {
            0
        } else {
            1
        }),
        Err(error) => panic!("{error}"),
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let listing = args.iter().any(|arg| arg == "--list");
    if listing {
        // Runners ask a second time for tests that are ignored: there are none.
        if !args.iter().any(|arg| arg == "--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        let fits = |filter: &&String| match exact {
            true => filter.as_str() == name,
            false => name.contains(filter.as_str()),
        };
        filters.is_empty() || filters.iter().any(fits)
    };
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let ended = runtime.block_on(async { tokio::time::timeout(TIMEOUT, test()).await });
            runtime.shutdown_background();
            assert!(ended.is_ok(), "took too long");
        });
        let passed = thread.join().is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    if failed > 0 {
        println!("{failed} failed");
        std::process::exit(1);
    }
}
