//! What every store must do, whatever holds its rows: one behaviour a function, each against a store of its own.
//!
//! A backend supplies a [`Bench`] and says `store_conformance!`; each behaviour then shows as a test of its own. Nothing
//! here knows a backend; what only one of them can do (a full disk, a damaged file) is tested beside it.
#![allow(clippy::unwrap_used)]

pub mod budgets;
pub mod claims;
pub mod commits;
pub mod mail;
pub mod reading;
pub mod removal;
pub mod sample;
pub mod sandboxes;
pub mod sessions;
pub mod submissions;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use mote::store::Store;

/// A place with one set of data of one backend.
#[async_trait]
pub trait Bench: Send + Sync {
    /// Opens the data, as another process would: several may be open at once.
    async fn open(&self) -> Arc<dyn Store>;
    /// Opens what [`Store::backup`] wrote.
    async fn open_backup(&self, backup: &Path) -> Arc<dyn Store>;
    /// A directory for the test's own files.
    fn scratch(&self) -> &Path;
}

/// Makes a test of every behaviour. `$bench` is an expression that gives a new [`Bench`], evaluated once a test.
#[macro_export]
macro_rules! store_conformance {
    ($bench:expr) => {
        $crate::store_conformance! { @modules $bench;
            submissions {
                a_submission_is_durable_as_it_was_made,
                a_replayed_key_answers_with_the_first_task,
                a_key_is_refused_for_another_request,
                keys_are_apart_by_tenant_and_route_and_forgotten_in_time,
                concurrent_submissions_of_one_key_make_one_task,
                a_submission_may_be_claimed_and_committed_at_once,
                a_first_commit_that_a_budget_refuses_submits_nothing,
                an_id_is_used_once,
            }
            claims {
                the_oldest_is_claimed_first_and_no_more_than_asked,
                eight_claimers_never_share_a_task,
                a_task_whose_lease_ran_out_changes_hands_and_the_old_worker_is_fenced,
                a_lease_that_ran_out_commits_nothing_even_unclaimed,
                a_renewed_lease_is_kept_and_a_lost_one_reported,
                a_released_task_is_claimable_at_once,
                a_task_past_its_expiry_is_still_handed_out,
                claims_in_vain_end_in_the_dead_letters,
                progress_forgives_earlier_claims,
                workers_that_end_before_they_begin_bury_nothing,
                tasks_on_which_workers_died_are_tried_alone,
                a_poison_is_buried_and_what_stood_beside_it_is_not,
                a_dead_letter_forfeits_what_it_had_reserved,
                work_is_announced,
            }
            commits {
                a_commit_applies_all_of_its_batch,
                a_commit_at_another_sequence_number_is_refused,
                a_commit_that_a_budget_refuses_applies_nothing,
                a_finished_task_changes_no_more,
                a_journal_is_read_in_pages,
                large_payloads_come_back_as_they_were,
                a_subscriber_hears_of_what_it_can_then_read,
                concurrent_commits_at_one_place_let_one_through,
            }
            mail {
                a_waiting_task_wakes_at_its_time,
                a_waiting_task_wakes_for_mail,
                mail_that_came_before_the_wait_is_not_slept_through,
                mail_that_was_seen_wakes_nobody,
                a_waiting_task_wakes_to_expire,
                consumed_mail_is_gone_and_the_rest_stays,
                a_queued_task_is_cancelled_at_once,
                a_running_task_gets_its_cancel_as_mail,
                a_full_mailbox_still_takes_a_cancel,
                mail_to_nobody_is_refused,
            }
            sessions {
                tasks_of_a_session_run_one_at_a_time_in_order,
                a_waiting_task_occupies_its_session,
                a_cancelled_head_lets_the_next_one_in,
                a_released_head_keeps_its_place,
                sessions_do_not_hold_each_other_up,
                a_busy_session_refuses_a_claim_at_once,
                claimers_race_for_a_session_and_one_wins,
                a_turn_is_added_to_the_transcript,
                a_transcript_is_bounded_and_never_cut_between_call_and_result,
            }
            budgets {
                racing_tasks_never_exceed_a_budget,
                a_settled_amount_replaces_its_reservation,
                an_overshoot_is_booked_and_stops_the_next,
                a_finished_task_gives_its_reservation_back,
                one_full_line_refuses_all_lines,
                windows_are_apart,
                a_renamed_line_begins_with_what_was_spent,
                a_reservation_outlives_its_process,
            }
            reading {
                a_listing_obeys_every_filter,
                a_cursor_is_stable_while_tasks_come_in,
                a_cursor_that_no_listing_gave_is_refused,
                tasks_are_listed_by_date,
                sessions_are_listed_by_name,
                a_tenant_sees_only_its_own,
                counts_follow_the_tasks,
                outbox_messages_come_when_due_until_done,
                a_store_answers_a_ping,
            }
            removal {
                a_sweep_removes_what_outlived_its_retention,
                a_sweep_keeps_payloads_that_others_share,
                a_sweep_forgets_idle_sessions,
                a_session_is_erased,
                a_user_is_erased_and_others_stay,
                a_task_is_deleted_and_its_session_goes_with_the_last,
                nothing_is_erased_while_a_task_runs,
                erasing_a_head_lets_the_next_one_in,
                a_dead_letter_is_requeued_with_a_fresh_journal,
                only_what_failed_or_was_cancelled_lives_again,
                a_failed_task_is_resumed_where_its_journal_ends,
                a_backup_is_readable_while_the_store_goes_on,
            }
            sandboxes {
                an_owner_has_one_sandbox,
                a_replaced_sandbox_is_told_and_given_back,
                what_lost_its_owner_is_due_until_it_is_gone,
                every_end_of_an_owner_gives_its_sandbox_back,
            }
        }
    };
    (@modules $bench:expr; $($module:ident { $($name:ident,)* })*) => {
        $(mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let bench = $bench;
                    $crate::conformance::$module::$name(&bench).await;
                }
            )*
        })*
    };
}
