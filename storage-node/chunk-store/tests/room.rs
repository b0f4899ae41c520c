//! What a disk says it has room for, it takes; what only has to wait for space waits (I15).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::room;

#[test]
fn an_empty_disk_takes_requests_of_every_size() {
    room::an_empty_disk_takes_requests_of_every_size();
}

#[test]
fn entries_that_run_low_are_counted_as_entries() {
    room::entries_that_run_low_are_counted_as_entries();
}

#[test]
fn what_comes_back_is_room() {
    room::what_comes_back_is_room();
}

#[test]
fn slow_operations_wait_for_space() {
    room::slow_operations_wait_for_space();
}

#[test]
fn a_unit_stays_while_a_write_to_it_is_in_flight() {
    room::a_unit_stays_while_a_write_to_it_is_in_flight();
}

#[test]
fn what_was_zeroed_is_room_once() {
    room::what_was_zeroed_is_room_once();
}

#[test]
fn parts_of_chunks_that_were_zeroed_are_room() {
    room::parts_of_chunks_that_were_zeroed_are_room();
}

#[test]
fn a_promise_ends_with_what_it_was_for() {
    room::a_promise_ends_with_what_it_was_for();
}

#[test]
fn who_waited_behind_a_refused_write_is_answered() {
    room::who_waited_behind_a_refused_write_is_answered();
}

#[test]
fn each_replica_is_counted_at_the_units_that_its_data_takes() {
    room::each_replica_is_counted_at_the_units_that_its_data_takes();
}
