"""Whether the tests bite: each guard that matters is taken out of a copy of the code, and its test has to fail.

python -m tests.mutants              # all of them, on all cores: a few minutes
python -m tests.mutants If-Match     # those whose name has this in it
python -m tests.mutants --why        # and how each test failed

A guard is a small text in one module, and what stands there once it is gone. The copy is of the whole tree, has that
one change, and runs the named test alone. A test that passes nevertheless is a survivor, and the exit code is 1; so it
is where a named test fails without any change. `test_mutants.py` sees to it that every text is still there, exactly
once, and that every test has the name by which it is called here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
PACKAGE = "nccid_fetch"
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
_TEST_SECONDS_MAX = 100
_SECONDS_MAX = 300.0
_TIMED_OUT = "from pytest-timeout"
_FAILED = 1
"""What pytest exits with when tests failed. Any other code, as of a module that cannot be imported, proves nothing."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A place in the code that something depends on, and the test that fails without it.

    Attributes:
        name: What it keeps from happening, or sees to.
        module: Its file, below the package.
        text: What stands there; exactly once in the file.
        gone: What stands there when the guard is gone.
        test: The test that must fail then: file and function.
    """

    name: str
    module: str
    text: str
    gone: str
    test: str

    def removed_from(self, source: str) -> str:
        """Return a module's text without the guard.

        Raises:
            ValueError: The text is not there, or more than once.
        """
        if (times := source.count(self.text)) != 1:
            raise ValueError(f"{self.module} has the text of the guard {self.name!r} {times} times, not once")
        return source.replace(self.text, self.gone)


GUARDS = (
    # One version of an object, whole.
    Guard(
        "If-Match: the fast reader asks for the version that was listed",
        "store/fast.py",
        'extra = {"if-match": remote.etag.header}',
        "extra: dict[str, str] = {}",
        "test_store.py::test_a_body_is_asked_for_under_the_etag_that_was_listed",
    ),
    Guard(
        "If-Match: the reference reader asks for the version that was listed",
        "store/reference.py",
        "IfMatch=remote.etag.header, ",
        "",
        "test_store.py::test_a_body_is_asked_for_under_the_etag_that_was_listed",
    ),
    Guard(
        "the ETag of the answer is compared, for not every server honours If-Match",
        "ranges.py",
        "if body.etag != remote.etag:",
        "if False:",
        "test_transfer.py::test_a_version_of_the_same_length_on_a_server_that_ignores_if_match_is_changed",
    ),
    Guard(
        "every attempt has a staged file of its own",
        "transfer.py",
        "self.staged.discard)\n            self.staged = self._new_staged()",
        "self.staged.close)\n            self.staged.size = 0",
        "test_transfer.py::test_each_attempt_has_a_staged_file_of_its_own",
    ),
    Guard(
        "a buffer that somebody may still look at is not used again",
        "store/fast.py",
        "            if not (exchange.is_whole and exchange.failure):\n                yield chunk\n",
        "            self._reader.buffers.give_back(chunk)\n"
        "            if not (exchange.is_whole and exchange.failure):\n"
        "                yield chunk\n",
        "test_reactor.py::test_memory_that_somebody_may_still_look_at_is_not_used_again",
    ),
    Guard(
        "no more bytes are staged than were listed",
        "transfer.py",
        "if staged.size + received > remote.size:",
        "if False:",
        "test_transfer.py::test_no_more_bytes_are_staged_than_were_listed",
    ),
    Guard(
        "a body that is longer than it promised fills no memory",
        "store/reactor.py",
        "if end > self.length and self.is_whole:",
        "if False:",
        "test_reactor.py::test_a_body_that_is_longer_than_its_length_says_is_cut_short_and_fills_no_memory",
    ),
    Guard(
        "a body that ends early is short",
        "transfer.py",
        "if staged.size != remote.size:",
        "if False:",
        "test_transfer.py::test_a_body_that_ends_early_without_a_word_is_short_also_where_nothing_is_hashed",
    ),
    Guard(
        "a body that promises another length is not begun",
        "ranges.py",
        "if body.length is not None and body.length != length:",
        "if False:",
        "test_transfer.py::test_a_body_that_promises_another_length_is_not_even_begun",
    ),
    Guard(
        "a range too long is not written over its neighbour",
        "ranges.py",
        "if start > stop:",
        "if False:",
        "test_ranges.py::test_a_range_that_is_too_long_is_not_written_over_the_next",
    ),
    Guard(
        "a range that ends early is an error",
        "ranges.py",
        "if start != stop:",
        "if False:",
        "test_ranges.py::test_what_is_wrong_with_one_range_is_an_error_and_no_byte_of_it_counts",
    ),
    Guard(
        "what came beyond a gap is cut off",
        "staging.py",
        "os.ftruncate(self._fd, self.size)",
        "pass",
        "test_ranges.py::test_what_came_beyond_a_gap_is_cut_off",
    ),
    Guard(
        "Content-Range: the fast reader takes no other range than it asked for",
        "store/fast.py",
        "if is_part and not exchange.headers",
        "if False and not exchange.headers",
        "test_store.py::test_a_range_that_is_answered_with_something_else_is_not_read",
    ),
    Guard(
        "Content-Range: the reference reader takes no other range than it asked for",
        "store/reference.py",
        "if is_part and not str(",
        "if False and not str(",
        "test_transfer.py::test_a_range_from_another_place_begins_anew_also_where_nothing_is_hashed",
    ),
    # Proof.
    Guard(
        "nothing gets a name unproved",
        "transfer.py",
        "if staged.md5 is None:",
        "if True:",
        "test_transfer.py::test_wrong_bytes_of_the_right_length_are_refused_after_three_of_them",
    ),
    Guard(
        "the MD5 is compared",
        "proof.py",
        "if remote.etag.md5 == md5:",
        "if True:",
        "test_transfer.py::test_wrong_bytes_once_are_mended_by_the_next_attempt",
    ),
    Guard(
        "an MD5 that differs is corruption, unless the headers say that it is none",
        "proof.py",
        "if remote.etag.md5 is not None and not facts.etag_is_opaque:",
        "if False:",
        "test_proof.py::test_without_kms_an_etag_that_is_not_the_md5_is_corruption",
    ),
    Guard(
        "under KMS an ETag is no MD5",
        "store/protocol.py",
        'return self.customer_key or (self.encryption or "").startswith("aws:kms")',
        "return self.customer_key",
        "test_proof.py::test_an_etag_under_kms_is_no_md5_and_no_corruption",
    ),
    Guard(
        "a key of KMS that may not be used is no object that may not be read",
        "store/answers.py",
        'if code.startswith("KMS.") or (code and status == 403 and "kms:" in message.lower()):',
        "if False:",
        "test_transfer.py::test_a_key_of_kms_that_may_not_be_used_is_named_and_not_tried_again",
    ),
    Guard(
        "the MD5s of the parts are compared",
        "proof.py",
        "multipart_etag(chunks(), sizes)) == remote.etag.lower()",
        "multipart_etag(chunks(), sizes)) != ''",
        "test_proof.py::test_a_multipart_object_with_a_wrong_byte_is_a_mismatch",
    ),
    Guard(
        "parts that a server does not know are not guessed",
        "store/reference.py",
        "if size is None or (size == remote.size and remote.etag.parts != 1):",
        "if size is None:",
        "test_store.py::test_a_server_that_knows_no_parts_leaves_their_sizes_unknown",
    ),
    Guard(
        "parts that only look even are asked for one by one",
        "proof.py",
        "exact = await reference.part_sizes(remote, each=True)",
        "exact = sizes",
        "test_proof.py::test_a_multipart_etag_is_rebuilt_from_the_sizes_of_its_parts",
    ),
    Guard(
        "a checksum of the whole object is compared",
        "proof.py",
        "if actual != expected:",
        "if False:",
        "test_proof.py::test_a_checksum_that_differs_is_a_mismatch",
    ),
    Guard(
        "a checksum of checksums is not taken for one of the object",
        "store/protocol.py",
        'if value and "-" not in value:',
        "if value:",
        "test_proof.py::test_a_checksum_of_checksums_is_ignored",
    ),
    Guard(
        "a checksum that says nothing of its type is none of an upload in parts",
        "store/protocol.py",
        'unless_said = "COMPOSITE" if ETag.parse(headers.get("etag", "")).parts else "FULL_OBJECT"',
        'unless_said = "FULL_OBJECT"',
        "test_proof.py::test_a_checksum_of_a_part_that_a_server_gives_for_the_objects_never_fails_it",
    ),
    Guard(
        "a checksum that says that it is one of checksums is believed",
        "store/protocol.py",
        'if headers.get("x-amz-checksum-type", unless_said) == "FULL_OBJECT":',
        'if unless_said == "FULL_OBJECT":',
        "test_store.py::test_a_checksum_counts_only_if_it_is_that_of_the_whole_object",
    ),
    Guard(
        "what is known by its size alone is no success where proof is required",
        "summary.py",
        "if settings.require_verified and self._is_unproved(",
        "if False and self._is_unproved(",
        "test_proof.py::test_require_verified_is_not_met_by_size_alone",
    ),
    # What is there already.
    Guard(
        "a file without a record is adopted by its digest only",
        "decisions.py",
        "return Check(remote, Why.UNRECORDED if record is None else Why.LOCALLY_CHANGED, local)",
        "return Skip(remote)",
        "test_proof.py::test_a_file_of_the_right_length_that_differs_is_set_aside",
    ),
    Guard(
        "a file that only its size speaks for is not adopted",
        "transfer.py",
        "or (verified_by is VerifiedBy.SIZE and decision.why is not Why.KNOWN_BY_SIZE)",
        "",
        "test_proof.py::test_a_file_that_nothing_proves_is_fetched_and_if_it_is_equal_not_set_aside",
    ),
    Guard(
        "a new version is fetched",
        "decisions.py",
        "if record.etag != remote.etag or record.size != remote.size:",
        "if False:",
        "test_pipeline.py::test_a_new_version_replaces_the_old_one_without_setting_it_aside",
    ),
    Guard(
        "a file that was touched is looked at again",
        "decisions.py",
        "local.size == record.size and local.modified_ns == record.file_ns:",
        "local.size == record.size:",
        "test_decisions.py::test_a_touched_file_of_the_same_size_is_checked_whatever_its_etag",
    ),
    Guard(
        "what was never flushed is in doubt after another boot",
        "journal.py",
        "if run not in here or run <= max(failed, default=0))",
        "if run <= max(failed, default=0))",
        "test_durability.py::test_what_was_not_flushed_is_hashed_again_in_another_boot_and_nothing_else_is",
    ),
    Guard(
        "what is in doubt is hashed",
        "decisions.py",
        "        if record.in_doubt:\n",
        "        if False:\n",
        "test_durability.py::test_what_was_not_flushed_is_hashed_again_in_another_boot_and_nothing_else_is",
    ),
    Guard(
        "what is in doubt is not taken for somebody's work",
        "decisions.py",
        "    if check.why is Why.IN_DOUBT:\n",
        "    if False:\n",
        "test_durability.py::test_what_a_power_failure_left_of_a_file_is_replaced_without_more_ado",
    ),
    Guard(
        "quarantine: a file that no record vouches for is set aside before its name is taken",
        "destination.py",
        "if there != placement.replaces and",
        "if False and",
        "test_destination.py::test_a_file_that_appeared_is_set_aside_with_its_bytes_and_its_mtime",
    ),
    Guard(
        "quarantine: what was set aside before is not overwritten",
        "destination.py",
        "if look_at(aside_fd, name) is None:",
        "if True:",
        "test_destination.py::test_a_name_that_is_set_aside_twice_in_a_run_loses_neither_file",
    ),
    Guard(
        "what is no file is never replaced",
        "destination.py",
        "if there.kind is not LocalKind.FILE:",
        "if False:",
        "test_destination.py::test_what_is_no_file_at_the_file_s_name_is_a_conflict_and_stays",
    ),
    Guard(
        "of `a` and `a/b`, the same one arrives on every run",
        "planning.py",
        "if parent is not None:",
        "if False:",
        "test_pipeline.py::test_of_an_object_and_objects_below_its_name_the_same_one_arrives_on_every_run",
    ),
    Guard(
        "of twins that the file system cannot tell apart, one keeps the name",
        "planning.py",
        "if owner != remote.key:",
        "if False:",
        "test_pipeline.py::test_of_twins_the_first_in_byte_order_wins_on_every_run",
    ),
    # The order on disk.
    Guard(
        "data is durable before it gets its name",
        "destination.py",
        "self._flush_staged(batch)",
        "pass",
        "test_destination.py::test_data_is_flushed_before_the_first_rename_and_names_after_the_last",
    ),
    Guard(
        "names are durable before they are recorded",
        "destination.py",
        "self._flusher.flush([self._root_fd])",
        "pass",
        "test_destination.py::test_data_is_flushed_before_the_first_rename_and_names_after_the_last",
    ),
    Guard(
        "without syncfs every folder is made durable",
        "destination.py",
        "on_leave = None if self._flusher.is_whole else",
        "on_leave = None if True else",
        "test_destination.py::test_without_syncfs_every_file_is_flushed_before_the_first_rename_and_every_folder_after_its_last",
    ),
    Guard(
        "a flush that failed is heard",
        "durability.py",
        "elif self._syncfs(self._root_fd) != 0:",
        "elif self._syncfs(self._root_fd) > 0:",
        "test_destination.py::test_the_real_flusher_flushes_and_says_when_it_cannot",
    ),
    Guard(
        "a flush that failed is remembered",
        "commit.py",
        "await self._journal_thread.run(self._journal.note_failed_flush)",
        "pass",
        "test_durability.py::test_a_flush_that_fails_is_never_repeated_and_what_it_was_about_is_read_from_the_disk_itself",
    ),
    Guard(
        "after a failed flush files are read from the disk itself",
        "operations.py",
        "destination.distrusts_cache = journal.distrusts_cache",
        "pass",
        "test_durability.py::test_a_flush_that_fails_is_never_repeated_and_what_it_was_about_is_read_from_the_disk_itself",
    ),
    Guard(
        "a record is forgotten before its file is written anew without a flush",
        "planning.py",
        "await self.journal_thread.run(lambda: journal.forget(keys, replaced))",
        "pass",
        "test_power_loss.py::test_a_file_that_is_written_anew_without_a_flush_is_never_taken_for_what_was_recorded_before",
    ),
    Guard(
        "syncfs is trusted only where the kernel reports its failures",
        "durability.py",
        "if release < _SYNCFS_REPORTS_ERRORS:",
        "if False:",
        "test_destination.py::test_one_flush_covers_everything_only_where_the_kernel_reports_its_failures",
    ),
    Guard(
        "nothing is recorded that did not get its name",
        "commit.py",
        "(_final(ending, refusal), ending.mtime_ns)",
        "(ending.outcome, ending.mtime_ns)",
        "test_pipeline.py::test_what_cannot_get_its_name_in_the_end_is_not_recorded",
    ),
    Guard(
        "nothing is recorded before it is in place",
        "commit.py",
        "        refusals = iter(await",
        "        early = [(e.outcome.remote.key, _record(e.outcome)) for e in batch if not isinstance(e.outcome, Failed)]\n"
        "        await self._journal_thread.run(lambda: self._journal.commit(early))\n"
        "        refusals = iter(await",
        "test_pipeline.py::test_nothing_is_recorded_before_it_is_in_place",
    ),
    Guard(
        "a commit of the journal is durable",
        "sqlitefile.py",
        '"synchronous=FULL"',
        '"synchronous=OFF"',
        "test_journal.py::test_a_commit_waits_until_the_disk_has_it",
    ),
    Guard(
        "a batch is recorded whole or not at all",
        "journal.py",
        'self._connection.execute("ROLLBACK")',
        'self._connection.execute("COMMIT")',
        "test_journal.py::test_a_batch_whose_failures_break_records_no_file_either",
    ),
    Guard(
        "what the file system says of itself ends the run",
        "destination.py",
        "if isinstance(error, FlushError) or not (is_of_one_name(error) or error.errno in FULL):",
        "if False:",
        "test_destination.py::test_what_the_file_system_says_of_itself_ends_the_run",
    ),
    Guard(
        "a name that finds no room gets the room kept back",
        "destination.py",
        "if isinstance(error, FlushError) or error.errno not in FULL or not self.reserve.give_up():",
        "if True:",
        "test_full_disk.py::test_a_last_batch_without_room_is_9_and_not_a_few_failures",
    ),
    Guard(
        "a journal that finds no room gets the room kept back",
        "commit.py",
        "if not await self._disk.run(self._destination.reserve.give_up):",
        "if True:",
        "test_full_disk.py::test_a_journal_without_room_gets_what_was_kept_back_and_the_run_ends",
    ),
    Guard(
        "a run whose last batch found no room is no success",
        "pipeline.py",
        "elif tools.destination.has_run_out and not causes:",
        "elif False:",
        "test_full_disk.py::test_a_last_batch_without_room_is_9_and_not_a_few_failures",
    ),
    Guard(
        "room is kept back",
        "operations.py",
        "destination.reserve.take()",
        "pass",
        "test_full_disk.py::test_room_is_kept_back_while_a_run_lasts",
    ),
    Guard(
        "a destination that was unmounted is not written to",
        "destination.py",
        "self._check_mounted()\n        self._flush_staged(batch)",
        "self._flush_staged(batch)",
        "test_destination.py::test_a_destination_that_is_moved_in_the_middle_of_a_run_ends_it",
    ),
    Guard(
        "a committer that fails ends the run",
        "pipeline.py",
        "    committing.result()",
        "    return",
        "test_pipeline.py::test_a_destination_that_fails_ends_the_run_while_everything_else_still_waits",
    ),
    Guard(
        "a task cannot end in silence",
        "tasks.py",
        "        if task.cancelling():\n",
        "        if True:\n",
        "test_pipeline.py::test_whatever_breaks_ends_the_run_loudly",
    ),
    Guard(
        "an object that gets lost on the way is noticed",
        "pipeline.py",
        "if ended + self.passed_over != dealt:",
        "if False:",
        "test_pipeline.py::test_an_object_that_gets_lost_on_the_way_is_a_defect_and_no_success",
    ),
    Guard(
        "a signal that asks for something ends no command that is still being loaded",
        "cli/main.py",
        "going_to(end_unbegun, ENDING)",
        "going_to(end_unbegun)",
        "test_kill.py::test_before_the_first_and_after_the_last_words_no_signal_that_asks_for_something_ends_the_process",
    ),
    Guard(
        "a signal waits for nothing longer than 5 seconds",
        "cli/runner.py",
        "(second := news.get(timeout=max(0.0, ends - monotonic())))",
        "(second := news.get())",
        "test_kill.py::test_a_signal_ends_a_run_in_time_whatever_hangs",
    ),
    Guard(
        "a second signal ends the process",
        "cli/runner.py",
        "end_at_once(second)",
        "pass",
        "test_kill.py::test_a_second_signal_ends_the_process_at_once",
    ),
    Guard(
        "what a run writes to holds nothing up either",
        "cli/runner.py",
        "                _end_after_last_words(number)\n",
        "",
        "test_kill.py::test_a_signal_ends_a_run_also_where_nobody_reads_what_it_writes",
    ),
    # The listing.
    Guard(
        "keys rise within a page",
        "store/pages.py",
        "if raw <= before:",
        "if False:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "keys rise from page to page",
        "listing.py",
        "if page.objects[0].key <= last_key:",
        "if False:",
        "test_listing.py::test_the_last_key_of_a_page_must_not_open_the_next",
    ),
    Guard(
        "the same token twice is no progress",
        "listing.py",
        "if page.token is not None and (page.token == token or",
        "if page.token is not None and (False or",
        "test_listing.py::test_the_same_token_twice_running_is_an_error",
    ),
    Guard(
        "a page cut short without a token is no end",
        "store/pages.py",
        'if truncated == "true" and not token:',
        "if False:",
        "test_listing.py::test_a_page_that_names_no_token_to_go_on_with_is_an_error_and_not_an_end",
    ),
    Guard(
        "a page that does not say whether it is the last is no end",
        "store/pages.py",
        'if truncated not in {"true", "false"}:',
        "if False:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "a document that is no listing is no empty listing",
        "store/pages.py",
        'if root.tag != "ListBucketResult":',
        "if False:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "a token that has become too old is not the end of a listing",
        "listing.py",
        "token, after = None, last_key\n                continue",
        "raise",
        "test_listing.py::test_a_listing_whose_token_has_become_too_old_goes_on_after_its_last_key",
    ),
    Guard(
        "instead of a token that is too old, the last key is gone on from",
        "listing.py",
        "token, after = None, last_key\n",
        "token = None\n",
        "test_listing.py::test_a_listing_whose_token_has_become_too_old_goes_on_after_its_last_key",
    ),
    Guard(
        "a listing of another bucket is refused",
        "store/pages.py",
        'if root.findtext("Name") != bucket:',
        "if False:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "a listing of another prefix is refused",
        "store/pages.py",
        "if echoed is not None and prefix not in",
        "if False and prefix not in",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "keys are decoded only where the server says that they are encoded",
        "store/pages.py",
        'if root.findtext("EncodingType") == "url" else str',
        "if True else str",
        "test_listing.py::test_without_an_echo_of_the_encoding_nothing_is_decoded",
    ),
    Guard(
        "XML with declarations is not parsed",
        "store/pages.py",
        'if b"<!" in body or b"\\0" in body:',
        "if False:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "an answer to a listing is bounded",
        "store/pages.py",
        "if len(body) > PAGE_BYTES_MAX:",
        "if False:",
        "test_listing.py::test_an_answer_without_end_is_dropped_at_a_bound",
    ),
    Guard(
        "a listing that breaks is failed and not complete",
        "pipeline.py",
        "    if breaks:\n",
        "    if False:\n",
        "test_pipeline.py::test_a_listing_that_breaks_off_fails_its_part_and_the_others_finish",
    ),
    Guard(
        "a run with a listing that broke is no success",
        "summary.py",
        "if self.listing_failed:",
        "if False:",
        "test_pipeline.py::test_a_listing_that_breaks_off_fails_its_part_and_the_others_finish",
    ),
    Guard(
        "a part that was asked for and denied is no success",
        "summary.py",
        "if self.misses_access(settings):",
        "if False:",
        "test_pipeline.py::test_a_denied_part",
    ),
    Guard(
        "a part whose objects are all denied is given up",
        "failurelimits.py",
        "if self.denied[part] >= DENIED_MAX and",
        "if False and",
        "test_pipeline.py::test_a_part_whose_objects_are_all_denied_is_given_up",
    ),
    # What is begun, and when no more is.
    Guard(
        "of all that waits the earliest phase is taken first, and patient by patient",
        "admission.py",
        "return self.phase, below_part(self.due[0].remote.key), self.number, self",
        'return 0, "", self.number, self',
        "test_admission.py::test_of_all_that_waits_the_earliest_phase_comes_first_and_within_it_one_patient_after_the_other",
    ),
    Guard(
        "a full lane holds back its stream",
        "admission.py",
        "while len(self.due) > lanes.share:",
        "while False:",
        "test_pipeline.py::test_what_is_planned_and_not_begun_is_bounded_whatever_the_size_of_the_bucket",
    ),
    Guard(
        "in a run that is halted nothing that waits is begun",
        "admission.py",
        "if not self._heads or self._brake.is_halted:",
        "if not self._heads:",
        "test_admission.py::test_when_the_run_is_halted_nothing_is_taken_any_more",
    ),
    Guard(
        "a patient's turn is when all parts have listed past it",
        "admission.py",
        "if not is_past and",
        "if False and",
        "test_stopping.py::test_so_many_patients_are_begun_and_each_of_them_is_whole",
    ),
    Guard(
        "a stream that is ahead waits for the others",
        "admission.py",
        "while self._positions[parts] > min(self._positions.values()):",
        "while False:",
        "test_stopping.py::test_no_more_than_a_patient_and_a_page_of_each_part_is_gathered",
    ),
    Guard(
        "a stream that has ended is waited for no longer",
        "admission.py",
        "        del self._positions[parts]\n",
        "",
        "test_stopping.py::test_a_part_whose_listing_breaks_off_holds_up_no_patient_and_is_5",
    ),
    Guard(
        "patients who are begun are finished",
        "admission.py",
        "self._brake.stop(stopped, at_once=False)",
        "self._brake.stop(stopped)",
        "test_stopping.py::test_so_many_patients_are_begun_and_each_of_them_is_whole",
    ),
    Guard(
        "who has more objects than are gathered is one patient all the same",
        "admission.py",
        "is_new = patient != self._begun",
        "is_new = True",
        "test_stopping.py::test_a_patient_of_more_objects_than_are_gathered_is_whole_all_the_same_and_one",
    ),
    Guard(
        "a plan is sorted by patient where whole patients are wanted",
        "operations.py",
        "plan_file.remotes(sort=sort)",
        "plan_file.remotes()",
        "test_stopping.py::test_a_plan_is_carried_out_by_whole_patients_too_however_it_is_ordered",
    ),
    Guard(
        "no listing goes on in a run that is stopped",
        "stopping.py",
        "self._work.reschedule(0.0)",
        "pass",
        "test_stopping.py::test_time_is_over_also_for_a_run_that_only_lists",
    ),
    Guard(
        "what is in flight is dropped in the end",
        "pipeline.py",
        "        worker.cancel()",
        "        pass",
        "test_stopping.py::test_what_is_in_flight_has_a_minute_and_no_longer_than_the_run_and_is_dropped",
    ),
    Guard(
        "what waits for a place when the run is halted is not begun",
        "pipeline.py",
        " or brake.is_halted:",
        ":",
        "test_stopping.py::test_with_the_first_failure_nothing_that_waits_for_a_place_is_begun_either",
    ),
    Guard(
        "what was dropped is passed over, and counted",
        "pipeline.py",
        "account.passed_over += 1  # Dropped",
        "pass  # Dropped",
        "test_stopping.py::test_what_is_in_flight_has_a_minute_and_no_longer_than_the_run_and_is_dropped",
    ),
    Guard(
        "what waits in a run that is halted is passed over, and counted",
        "pipeline.py",
        "account.passed_over += lanes.waiting",
        "pass",
        "test_stopping.py::test_when_its_time_is_over_a_run_ends_with_10_and_the_next_one_goes_on",
    ),
    Guard(
        "what failed only when it was to get its name stops a run, too",
        "commit.py",
        "            if isinstance(outcome, Failed):  # Be it only now",
        "            if False:  # Be it only now",
        "test_stopping.py::test_a_name_that_is_taken_at_the_very_end_is_a_failure_too",
    ),
    Guard(
        "a run that was cut short is no success",
        "summary.py",
        "            return 10\n",
        "            pass\n",
        "test_stopping.py::test_when_its_time_is_over_a_run_ends_with_10_and_the_next_one_goes_on",
    ),
    Guard(
        "a run that came to its end all the same is one",
        "summary.py",
        "return self.stopped if PartState.STOPPED in ends or not ends else None",
        "return self.stopped",
        "test_stopping.py::test_a_run_whose_last_object_comes_in_the_minute_after_its_time_ends_with_0",
    ),
    # Where requests go, and what is sent along.
    Guard(
        "redirects: libcurl follows none",
        "store/fast.py",
        "(pycurl.FOLLOWLOCATION, 0)",
        "(pycurl.FOLLOWLOCATION, 1)",
        "test_store.py::test_the_fast_reader_does_not_reach_the_host_that_a_redirect_names",
    ),
    Guard(
        "redirects: aioboto3's client follows none with an object",
        "store/strict.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "test_store.py::test_the_reference_reader_refuses_every_redirect_even_to_the_same_host",
    ),
    Guard(
        "redirects: a listing follows none",
        "store/strict.py",
        "return _Strict(session)",
        "return session",
        "test_listing.py::test_a_redirect_is_refused_and_the_other_host_hears_nothing",
    ),
    Guard(
        "redirects: a wrong region leads to no other host",
        "store/session.py",
        'client.meta.events.register("before-call.s3", _stay_here)',
        "pass",
        "test_store.py::test_a_wrong_region_is_an_error_and_no_reason_to_ask_another_host",
    ),
    Guard(
        "https is required beyond this machine",
        "settings.py",
        'if parts.scheme == "http" and not self.allow_http and',
        "if False and",
        "test_store.py::test_patients_data_do_not_travel_in_the_clear",
    ),
    Guard(
        "https is required also where a variable or a profile names the endpoint",
        "store/session.py",
        "source.check_endpoint(client.meta.endpoint_url)",
        "pass",
        "test_store.py::test_patients_data_do_not_travel_in_the_clear",
    ),
    Guard(
        "certificates are checked",
        "store/fast.py",
        "(pycurl.PATH_AS_IS, 1),",
        "(pycurl.PATH_AS_IS, 1), (pycurl.SSL_VERIFYPEER, 0),",
        "test_reactor.py::test_a_certificate_that_nobody_knows_is_refused_and_nothing_is_sent",
    ),
    Guard(
        "certificates: aioboto3's client checks them whatever the environment says",
        "store/strict.py",
        "super().__init__(verify=verify or True, **options)",
        "super().__init__(verify=verify, **options)",
        "test_tls.py::test_a_certificate_that_nobody_knows_is_refused_and_nothing_is_sent",
    ),
    Guard(
        "certificates: aioboto3's client checks them behind a proxy",
        "store/strict.py",
        "return super()._create_connector(None)",
        "return super()._create_connector(proxy_url)",
        "test_tls.py::test_a_certificate_that_nobody_knows_is_refused_and_nothing_is_sent",
    ),
    Guard(
        "a certificate has to be this host's",
        "store/fast.py",
        "(pycurl.PATH_AS_IS, 1),",
        "(pycurl.PATH_AS_IS, 1), (pycurl.SSL_VERIFYHOST, 0),",
        "test_reactor.py::test_a_certificate_of_another_host_is_refused",
    ),
    Guard(
        "a certificate has to be this host's for aioboto3's client too",
        "store/strict.py",
        "context.check_hostname = True",
        "context.check_hostname = False",
        "test_tls.py::test_a_certificate_of_aws_ca_bundle_is_trusted_for_its_own_host_alone",
    ),
    Guard(
        "credentials in an endpoint are refused",
        "settings.py",
        'if "@" in url:',
        "if False:",
        "test_cli.py::test_credentials_in_an_endpoint_are_refused_and_not_shown",
    ),
    # Where files go.
    Guard(
        "keys: no segment leads out of the destination",
        "keys.py",
        'if segment in {"", ".", ".."}:',
        'if segment in {"", "."}:',
        "test_keys.py::test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks",
    ),
    Guard(
        "keys: nor does one on the quick way",
        "keys.py",
        "return 2 < len(name) <= SEGMENT_BYTES_MAX",
        "return len(name) <= SEGMENT_BYTES_MAX",
        "test_keys.py::test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks",
    ),
    Guard(
        "keys: the state folder is not theirs",
        "keys.py",
        "    if folded == STATE_FOLDER:\n",
        "    if folded == STATE_FOLDER:\n        return\n    if False:\n",
        "test_pipeline.py::test_nothing_named_like_the_state_folder_is_let_in",
    ),
    Guard(
        "keys: what looks like the state folder to some file system is not theirs either",
        "keys.py",
        "folded = fold(name)",
        "folded = name",
        "test_keys.py::test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks",
    ),
    Guard(
        "keys: none of another group is let in",
        "keys.py",
        "if not key.startswith(prefix):",
        "if False:",
        "test_keys.py::test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks",
    ),
    Guard(
        "keys: none lies in a hidden folder, which some program may obey",
        "keys.py",
        'if folded.startswith("."):',
        "if False:",
        "test_keys.py::test_a_key_without_a_safe_path_is_refused_by_the_rule_it_breaks",
    ),
    Guard(
        "links: no folder is entered through one",
        "walk.py",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        "test_destination.py::test_what_would_pass_through_a_linked_folder_is_a_conflict",
    ),
    Guard(
        "links: one under a file's name is seen as a link",
        "walk.py",
        "dir_fd=folder_fd, follow_symlinks=False)",
        "dir_fd=folder_fd)",
        "test_destination.py::test_a_link_at_the_file_s_name_is_a_conflict_wherever_it_leads",
    ),
    Guard(
        "links: no file is read through one",
        "reading.py",
        "_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW |",
        "_READ_FLAGS = os.O_RDONLY |",
        "test_destination.py::test_no_file_is_read_through_a_link",
    ),
    Guard(
        "links: no mtime is set through one",
        "reading.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        "test_destination.py::test_no_mtime_is_set_through_a_link",
    ),
    Guard(
        "links: a staged file is always a new one",
        "staging.py",
        "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW |",
        "os.O_CREAT |",
        "test_destination.py::test_a_link_that_waits_under_a_staged_file_s_name_is_not_followed",
    ),
    Guard(
        "links: the journal is not opened through one",
        "sqlitefile.py",
        "if not is_right(mode):",
        "if False:",
        "test_journal.py::test_a_state_folder_that_is_a_link_is_not_followed",
    ),
    Guard(
        "modes: files are private whatever the umask",
        "staging.py",
        "set_mode(self._fd, self._staging.file_mode)",
        "pass",
        "test_destination.py::test_modes_are_what_was_asked_for_whatever_the_umask",
    ),
    Guard(
        "modes: folders are private whatever the umask",
        "walk.py",
        "set_mode(descriptor, self._create_mode)",
        "pass",
        "test_destination.py::test_modes_are_what_was_asked_for_whatever_the_umask",
    ),
    Guard(
        "modes: nobody else may read a file unless that was asked for",
        "settings.py",
        "0o640 if self.group_readable else 0o600",
        "0o644",
        "test_pipeline.py::test_a_run_brings_every_object_with_one_request_each",
    ),
    Guard(
        "modes: an adopted file becomes private",
        "destination.py",
        "is_set = set_mode(descriptor, mode)",
        "is_set = True",
        "test_pipeline.py::test_adopted_files_get_the_mode_and_the_time_of_fetched_ones",
    ),
    Guard(
        "modes: the journal is private whatever the umask",
        "sqlitefile.py",
        "set_mode(descriptor, 0o600)",
        "set_mode(descriptor, 0o644)",
        "test_journal.py::test_nobody_else_may_read_it_whatever_the_umask",
    ),
    # The journal.
    Guard(
        "lock: two runs never work on one destination",
        "sqlitefile.py",
        '"locking_mode=EXCLUSIVE"',
        '"locking_mode=NORMAL"',
        "test_journal.py::test_a_second_process_is_refused_until_the_first_lets_go",
    ),
    Guard(
        "a journal of another bucket or group is refused",
        "journal.py",
        "if owner is not None and tuple(owner) != (bucket, group):",
        "if False:",
        "test_journal.py::test_it_belongs_to_one_bucket_and_group",
    ),
    Guard(
        "a journal of a newer version is refused",
        "journal.py",
        "if version > VERSION:",
        "if False:",
        "test_journal.py::test_a_journal_of_a_newer_version_is_refused_and_not_touched",
    ),
    Guard(
        "a damaged journal is kept, and made anew",
        "journal.py",
        "                set_aside(path)\n",
        "                path.unlink()\n",
        "test_journal.py::test_a_damaged_journal_is_set_aside_and_made_anew",
    ),
    # What others are told of a run, and what a destination holds.
    Guard(
        "status: a run that does not have the destination leaves the word of the one that has it",
        "cli/publishing.py",
        "    try:\n        yield listen\n",
        "    publisher.begin()\n    try:\n        yield listen\n",
        "test_status.py::test_a_run_that_never_had_the_destination_leaves_the_word_of_the_one_that_has_it",
    ),
    Guard(
        "status: the end of a run leaves the word of the next one",
        "statusfile.py",
        "and found.is_of_the_same_run(self._last)",
        "",
        "test_status.py::test_the_end_is_written_unless_another_run_has_the_destination",
    ),
    Guard(
        "status: a disk that takes none hurts no run",
        "statusfile.py",
        "        with suppress(OSError):\n            write_status(",
        "        with suppress(KeyError):\n            write_status(",
        "test_status.py::test_a_disk_that_takes_no_status_hurts_nobody",
    ),
    Guard(
        "bandwidth: aioboto3 holds little of what nobody has asked for",
        "store/session.py",
        "is_limited=bandwidth is not None,",
        "is_limited=False,",
        "test_limits.py::test_a_server_has_to_send_hardly_more_than_is_asked_for",
    ),
    Guard(
        "bandwidth: what is received ahead is taken before a body begins",
        "store/strict.py",
        "LIMITED_AHEAD_BYTES = 2 * _LIMITED_RECEIVE_BYTES",
        "LIMITED_AHEAD_BYTES = 0",
        "test_limits.py::test_a_server_has_to_send_hardly_more_than_is_asked_for",
    ),
    Guard(
        "a standard stream that is closed is no file's",
        "cli/main.py",
        "    _open_what_is_closed()\n",
        "    pass\n",
        "test_cli.py::test_a_standard_stream_that_is_closed_leads_nowhere_and_no_file_takes_its_place",
    ),
    Guard(
        "status: none is read through a link",
        "statusfile.py",
        "os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW |",
        "os.open(NAME, os.O_RDONLY |",
        "test_status.py::test_no_status_is_read_through_a_link_or_from_what_is_no_file",
    ),
    Guard(
        "status: no share is more than all",
        "status.py",
        "if share is not None and not 0 <= share <= 1:",
        "if False:",
        "test_status.py::test_what_is_no_status_is_none",
    ),
    Guard(
        "status: no word of a stranger's moves the cursor",
        "cli/block.py",
        "yield printable(waiting_text(progress.waiting))",
        "yield waiting_text(progress.waiting)",
        "test_display.py::test_no_other_word_of_a_status_file_can_speak_to_the_terminal",
    ),
    Guard(
        "doctor: no folder looks newer for it",
        "doctor/premises.py",
        "            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))",
        "            pass",
        "test_doctor.py::test_nothing_is_changed_and_no_destination_is_made",
    ),
    Guard(
        "doctor: it asks for a plan of the same source",
        "doctor/judge_destination.py",
        'yield _noted("space", told, _PLAN_SAYS, again(source, dest, "plan"))',
        'yield _noted("space", told, _PLAN_SAYS, again(Source(), dest, "plan"))',
        "test_doctor_judgement.py::test_a_plan_is_asked_of_the_same_source_as_the_doctor",
    ),
    Guard(
        "status: who has the journal is asked of the kernel",
        "statusfile.py",
        "!= fcntl.F_UNLCK",
        "== -1",
        "test_status.py::test_who_has_the_journal_is_seen_from_another_process_and_stays_so",
    ),
    Guard(
        "status: what was read while a run began is nothing",
        "holdings.py",
        "return holdings if _stamp(path) == before else None",
        "return holdings",
        "test_status.py::test_a_run_that_begins_while_one_reads_makes_what_was_read_nothing",
    ),
    Guard(
        "status: no run is turned away by whoever reads",
        "holdings.py",
        "mode=ro&immutable=1",
        "mode=ro",
        "test_status.py::test_a_run_that_begins_while_one_reads_makes_what_was_read_nothing",
    ),
    Guard(
        "a plan that is carried out is not taken for a listing",
        "planning.py",
        "if journal is not None and self.lists and isinstance(self.tree, Destination):",
        "if journal is not None and isinstance(self.tree, Destination):",
        "test_status.py::test_a_plan_that_is_carried_out_is_no_listing",
    ),
    # What is said.
    Guard(
        "a share that was shown is never followed by a smaller one",
        "progress.py",
        "            share = self._share = max(share, self._share)\n        worked",
        "            share = self._share = share\n        worked",
        "test_progress.py::test_a_listing_that_turns_out_longer_than_the_last_one_takes_no_share_back",
    ),
    Guard(
        "the time left does not jump",
        "progress.py",
        "self._end += (end - self._end) * -math.expm1(-(now - before) / LEFT_FOLLOWS_SECONDS)",
        "self._end = end",
        "test_progress.py::test_a_burst_does_not_make_the_time_left_jump",
    ),
    Guard(
        "a terminal that became narrower is begun anew",
        "cli/display.py",
        "self._scroll_away(height)",
        "pass",
        "test_screens.py::test_in_the_middle_of_a_run_after_each_resize_and_when_nothing_comes_any_more",
    ),
    Guard(
        "a terminal that went away ends no run",
        "cli/display.py",
        "_Terminal(sys.stderr)):",
        "sys.stderr):",
        "test_screens.py::test_where_that_signal_is_ignored_the_run_goes_on_without_a_terminal",
    ),
    Guard(
        "whoever ends at once shows the cursor",
        "cli/signals.py",
        "            act()\n",
        "            pass\n",
        "test_screens.py::test_a_process_that_ends_at_once_shows_the_cursor_again",
    ),
    Guard(
        "printable: notes and errors cannot speak to a terminal",
        "cli/output.py",
        'sys.stderr.write(f"{printable(text)}',
        'sys.stderr.write(f"{text}',
        "test_cli.py::test_no_key_can_speak_to_a_terminal",
    ),
    Guard(
        "printable: nor can the keys of a summary",
        "cli/closing.py",
        "{printable(failed.remote.key)}",
        "{failed.remote.key}",
        "test_cli.py::test_no_key_can_speak_to_a_terminal",
    ),
    Guard(
        "printable: nor can a server's words in a message",
        "store/pages.py",
        "a <{printable(root.tag[:40])}>",
        "a <{root.tag[:40]}>",
        "test_listing.py::test_what_a_server_says_reaches_the_message_escaped",
    ),
    Guard(
        "printable: characters that are not seen are escaped",
        "keys.py",
        "c if c.isprintable() and not _IGNORABLE.match(c) else",
        "c if c.isprintable() else",
        "test_keys.py::test_what_could_forge_a_line_or_hide_is_escaped_where_it_is_shown",
    ),
    Guard(
        "a plan, which names patients, is for its owner alone",
        "cli/records/files.py",
        "_WRITE | _NEW | os.O_NOFOLLOW, 0o600)",
        "_WRITE | _NEW | os.O_NOFOLLOW, 0o644)",
        "test_cli.py::test_a_plan_holds_pseudonyms_and_is_for_its_owner_alone",
    ),
    Guard(
        "secrets: libraries do not write past us",
        "cli/strays.py",
        "logging.getLogger(library).setLevel(_SILENT)",
        "pass",
        "test_secrets.py::test_what_is_left_behind_in_tasks_threads_warnings_and_loggers_is_said_in_our_words_only",
    ),
    Guard(
        "secrets: nor does a task that nobody waited for",
        "cli/runner.py",
        "loop.set_exception_handler(strays.on_loop_exception)",
        "pass",
        "test_secrets.py::test_what_is_left_behind_in_tasks_threads_warnings_and_loggers_is_said_in_our_words_only",
    ),
    Guard(
        "configuration: a file that others may write to",
        "cli/configfile.py",
        "mode & (stat.S_IWGRP | stat.S_IWOTH)",
        "mode & 0",
        "test_config.py::test_a_file_that_others_may_write_to_is_refused",
    ),
    Guard(
        "configuration: the demo in the folder that a file names",
        "cli/configfile.py",
        "if is_settable(own.get(parameter.name, parameter)):",
        "if True:",
        "test_config.py::test_the_demo_does_not_fill_the_folder_that_the_file_names",
    ),
    Guard(
        "configuration: a password in an endpoint",
        "cli/config.py",
        "source.check_endpoint(setting.value)",
        "pass",
        "test_config.py::test_a_password_in_an_endpoint_of_awss_is_refused_and_not_shown",
    ),
    # What is kept beside.
    Guard(
        "records: a link that another user planted is not followed",
        "cli/records/files.py",
        "_APPEND | os.O_NOFOLLOW)",
        "_APPEND)",
        "test_records.py::test_what_another_user_left_under_the_name_is_refused",
    ),
    Guard(
        "records: nor is a file of another user written into",
        "cli/records/files.py",
        "if status.st_uid != os.geteuid():",
        "if False:",
        "test_records.py::test_what_another_user_left_under_the_name_is_refused",
    ),
    Guard(
        "records: one that is made is for its owner alone",
        "cli/records/files.py",
        "_APPEND | _NEW | os.O_NOFOLLOW, 0o600)\n        set_mode(descriptor, 0o600)",
        "_APPEND | _NEW | os.O_NOFOLLOW, 0o600)\n        set_mode(descriptor, 0o644)",
        "test_records.py::test_a_record_is_for_its_owner_alone_whatever_the_umask",
    ),
    Guard(
        "records: one that is there is closed to others",
        "cli/records/files.py",
        "if status.st_mode & 0o077:",
        "if False:",
        "test_records.py::test_a_record_that_lets_others_in_is_closed_to_them_and_keeps_what_it_has",
    ),
    Guard(
        "records: no key forges a line of the log",
        "cli/records/log.py",
        "printable(text.removeprefix(",
        "str(text.removeprefix(",
        "test_records_cli.py::test_no_key_forges_a_line_of_the_log",
    ),
    Guard(
        "records: a log that somebody else turned over is followed",
        "cli/records/log.py",
        "        if not self._is_current():\n            self._reopen()\n",
        "",
        "test_records.py::test_a_log_that_is_moved_away_is_begun_anew",
    ),
    Guard(
        "records: and not turned over as well",
        "cli/records/log.py",
        "            if self._is_current():\n                super()",
        "            if True:\n                super()",
        "test_records.py::test_who_waited_while_somebody_else_turned_a_log_over_does_not_turn_it_over_as_well",
    ),
    Guard(
        "records: what is lost is counted",
        "cli/records/outlet.py",
        "                self._lost += 1\n",
        "                pass\n",
        "test_records.py::test_what_finds_no_room_is_counted_and_the_number_written_in_its_place",
    ),
    Guard(
        "records: a disk that is full ends no run",
        "cli/records/outlet.py",
        "                with self._changed:\n                    self.error = error\n",
        "                raise\n                with self._changed:\n                    self.error = error\n",
        "test_records_cli.py::test_a_record_that_cannot_be_gone_on_with_is_a_warning_and_never_the_end",
    ),
    Guard(
        "records: no password of an endpoint",
        "cli/records/keeping.py",
        '_PASSWORD.sub("***@", text)',
        "text",
        "test_records_cli.py::test_a_password_in_an_endpoint_is_in_no_record",
    ),
    Guard(
        "records: no address of a chat",
        "cli/records/keeping.py",
        '"--on-finish": "(given)"',
        '"--on-start": "(given)"',
        "test_records_cli.py::test_a_log_in_json_has_the_same_as_facts",
    ),
    Guard(
        "records: one JSON object, whatever happens",
        "cli/records/keeping.py",
        "                print_json(self._ended(code))\n",
        "                pass\n",
        "test_records_cli.py::test_with_json_there_is_one_object_on_stdout_even_where_the_command_is_at_fault",
    ),
    Guard(
        "records: they end with a run that is left",
        "cli/runner.py",
        "            at_end(error.exit_code)\n",
        "",
        "test_records_cli.py::test_all_records_come_to_their_end_after_a_signal",
    ),
    Guard(
        "records: --on-finish is ended with all that it started",
        "cli/records/finish.py",
        "                start_new_session=True,",
        "                start_new_session=False,",
        "test_records_cli.py::test_on_finish_that_takes_too_long_is_ended_with_all_that_it_started",
    ),
    Guard(
        "records: --on-finish does not run itself",
        "cli/records/finish.py",
        ' if name != "NCCID_FETCH_ON_FINISH"}',
        "}",
        "test_records_cli.py::test_on_finish_does_not_run_itself",
    ),
    Guard(
        "records: metrics are replaced as a whole, where a link leads",
        "cli/records/metrics.py",
        "waiting.replace(place)",
        "place.write_bytes(waiting.read_bytes())",
        "test_records.py::test_metrics_leave_a_link_and_replace_the_file_where_it_leads",
    ),
    Guard(
        "records: and no pipe and no device",
        "cli/records/files.py",
        "if not stat.S_ISREG(found.st_mode):",
        "if False:",
        "test_records.py::test_metrics_replace_nothing_but_files",
    ),
    Guard(
        "records: the process does not wait for a log that nobody reads",
        "cli/records/log.py",
        "            atexit.unregister(logging.shutdown)",
        "            pass",
        "test_records_cli.py::test_a_reader_of_the_log_that_looks_away_does_not_hold_up_the_end_of_the_process",
    ),
    Guard(
        "config: its example is one object, where one is asked for",
        "cli/config.py",
        'if Format(values["format_"]) is Format.JSON:',
        "if False:",
        "test_config.py::test_the_example_has_every_option_with_its_default_and_sets_none",
    ),
    # Patience.
    Guard(
        "being told to slow down is no attempt",
        "retry.py",
        "if isinstance(error, ThrottledError):",
        "if False:",
        "test_transfer.py::test_being_told_to_slow_down_is_no_attempt_and_waits_as_asked",
    ),
    Guard(
        "Retry-After is honoured by all",
        "governor.py",
        "self._hold(error, leads=leads, asked=min(RETRY_AFTER_SECONDS_MAX, error.retry_after_seconds or 0.0))",
        "pass",
        "test_held_runs.py::test_nobody_asks_again_before_the_time_that_a_server_names",
    ),
    Guard(
        "Retry-After is honoured to the second",
        "governor.py",
        "while self._is_lead(lead) and (left := self._until - self._clock.now()) > 0:",
        "while self._is_lead(lead) and (left := self._until - self._clock.now()) > 60:",
        "test_governor.py::test_what_one_request_learns_holds_all_and_one_at_a_time_asks_whether_it_is_over",
    ),
    Guard(
        "a held run sends one request at a time",
        "governor.py",
        "            if self._lead is not None or self._is_shut:\n",
        "            if False:\n",
        "test_governor.py::test_what_one_request_learns_holds_all_and_one_at_a_time_asks_whether_it_is_over",
    ),
    Guard(
        "a held run sends nothing else",
        "governor.py",
        "lead = await self._turn(renew) if self.is_held else None",
        "lead = None",
        "test_governor.py::test_what_one_request_learns_holds_all_and_one_at_a_time_asks_whether_it_is_over",
    ),
    Guard(
        "a held run sends nothing past the governor",
        "store/fast.py",
        "if self._reader.session.governor.is_held:",
        "if False:",
        "test_reactor.py::test_while_the_run_is_held_nothing_is_sent_past_the_governor",
    ),
    Guard(
        "outside of its hours nobody asks whether they are over",
        "governor.py",
        "self.is_held = self._is_shut = True",
        "self.is_held = True",
        "test_hours.py::test_outside_of_its_hours_nothing_is_asked_for_and_then_it_goes_on",
    ),
    Guard(
        "what is given back to the bandwidth leaves nobody beyond the end of the line",
        "bandwidth.py",
        "self._served -= size",
        "self._taken += size",
        "test_bandwidth.py::test_what_is_given_back_lets_those_who_wait_move_up_and_leaves_nobody_beyond_the_end_of_the_line",
    ),
    Guard(
        "no more is received than was taken from the bandwidth",
        "store/reactor.py",
        "if self._body or self.is_to_wait:",
        "if self._body:",
        "test_reactor.py::test_after_a_chunk_of_what_is_limited_nothing_is_received_until_it_is_resumed",
    ),
    Guard(
        "a run is not held for ever",
        "governor.py",
        "if left < _LEFT_SECONDS_MIN:",
        "if False:",
        "test_governor.py::test_pauses_grow_to_a_cap_and_end_with_the_time_there_is",
    ),
    Guard(
        "wrong credentials are not waited for",
        "governor.py",
        "if not are_new and isinstance(self._cause, CredentialsError) and self._cause.are_wrong:",
        "if False:",
        "test_governor.py::test_wrong_credentials_end_the_run_unless_there_are_others_now",
    ),
    Guard(
        "expired credentials are read anew",
        "governor.py",
        "are_new = await renew()",
        "are_new = False",
        "test_held_runs.py::test_a_token_that_expires_is_read_anew_from_its_file_and_all_objects_arrive",
    ),
    Guard(
        "trickle: the fast reader gives a body up that trickles",
        "store/reactor.py",
        "elif exchange.trickles(now):",
        "elif False:",
        "test_transfer.py::test_a_body_that_trickles_ends_the_attempt_and_not_the_object",
    ),
    Guard(
        "trickle: the reference reader gives a body up that trickles",
        "store/reference.py",
        "if speed.is_too_slow(self._waited, received):",
        "if False:",
        "test_transfer.py::test_a_body_that_trickles_ends_the_attempt_and_not_the_object",
    ),
    Guard(
        "trickle: who is held up by our own disk does not",
        "store/reactor.py",
        "self._paused_seconds += now - self._paused_at",
        "pass",
        "test_pace.py::test_a_sender_that_is_held_up_does_not_trickle",
    ),
    Guard(
        "a body that is wrong three times is not asked for a fourth time",
        "retry.py",
        " or self._mismatches >= MISMATCHES_MAX:",
        ":",
        "test_transfer.py::test_wrong_bytes_of_the_right_length_are_refused_after_three_of_them",
    ),
    Guard(
        "credentials at fault are no object's fault",
        "store/answers.py",
        "if code in CREDENTIAL_CODES or (code and status == 401):",
        "if False:",
        "test_store.py::test_credentials_at_fault_end_the_run_and_not_one_object",
    ),
    # Plans and runs, what they read and write, and what they forget.
    Guard(
        "a dry run decides as the run does about what is known by size",
        "planning.py",
        "self.settings.existing, require_verified=self.settings.require_verified",
        "self.settings.existing, require_verified=False",
        "test_cli.py::test_what_is_known_by_size_is_checked_by_the_run_that_a_dry_run_foresees",
    ),
    Guard(
        "a dry run stops where the run stops",
        "foresight.py",
        "self.may_stop = settings.takes_whole_patients or settings.on_failure is OnFailure.STOP",
        "self.may_stop = False",
        "test_foresight.py::test_a_dry_run_foresees_what_each_option_does",
    ),
    Guard(
        "a dry run tells what the run leaves as not begun",
        "foresight.py",
        "self._tell(list(self._waiting.values()), begun=False)",
        "self._tell(list(self._waiting.values()), begun=True)",
        "test_foresight.py::test_a_dry_run_foresees_what_each_option_does",
    ),
    Guard(
        "what is refused fails in a dry run as in the run",
        "foresight.py",
        "self._report(Committed(refused))",
        "pass",
        "test_foresight.py::test_a_dry_run_foresees_what_each_option_does",
    ),
    Guard(
        "half a plan gets no name",
        "cli/fetching.py",
        "return bool(tally.listed.objects) and not (tally.listing_failed or tally.denied_later)",
        "return bool(tally.listed.objects)",
        "test_cli.py::test_half_a_plan_gets_no_name_and_that_is_said",
    ),
    Guard(
        "what may not be had outranks what could not be reached, in Python as well",
        "api.py",
        "error.exit_code = tally.exit_code(settings, error)",
        "pass",
        "test_api.py::test_an_error_has_the_exit_code_of_the_command_line",
    ),
    Guard(
        "an option that is None is not given",
        "api.py",
        "for name, value in options.items() if value is not None}",
        "for name, value in options.items()}",
        "test_api.py::test_an_option_that_is_none_is_not_given",
    ),
    Guard(
        "the hint of an error is printed once",
        "cli/output.py",
        'note(f"error: {error.message}")',
        'note(f"error: {error}")',
        "test_api.py::test_the_text_of_an_error_has_its_hint_once",
    ),
    Guard(
        "a plan from a pipe is kept",
        "planfile.py",
        "if not is_file:",
        "if False:",
        "test_inputs.py::test_a_plan_is_read_once_whatever_it_comes_through",
    ),
    Guard(
        "a line of a plan has an end",
        "planfile.py",
        "file.readline(LINE_BYTES_MAX)",
        "file.readline()",
        "test_inputs.py::test_of_a_line_without_an_end_no_more_is_read_than_a_plan_can_have",
    ),
    Guard(
        "a link stays where it is when a whole file is written",
        "cli/records/files.py",
        "place = place.parent / place.readlink()",
        "return path",
        "test_outputs.py::test_what_options_write_to_is_written_through_and_stays_what_it_is",
    ),
    Guard(
        "a pipe without a reader holds nothing up",
        "cli/records/files.py",
        "return os.open(path, _WRITE | os.O_NONBLOCK)\n        except",
        "return os.open(path, os.O_RDWR)\n        except",
        "test_outputs.py::test_what_cannot_be_written_is_2_and_one_sentence_and_stays_what_it_is",
    ),
    Guard(
        "a log on what is open is never turned over",
        "cli/records/log.py",
        "if self._is_special:",
        "if False:",
        "test_outputs.py::test_a_log_on_what_is_open_is_never_turned_over",
    ),
    Guard(
        "the summary does not mix with a plan on stdout",
        "cli/records/keeping.py",
        "if self._stdout_owner is None:\n            return nullcontext()",
        "if True:\n            return nullcontext()",
        "test_outputs.py::test_a_plan_on_stdout_is_all_that_stdout_has_and_what_it_has_already_stays",
    ),
    Guard(
        "what a run did not look at stays a failure",
        "failures.py",
        '"INSERT OR IGNORE INTO temp.unlisted SELECT key FROM failure WHERE key >= ? AND key < ?", _range(prefix)',
        '"DELETE FROM failure WHERE key >= ? AND key < ?", _range(prefix)',
        "test_failures.py::test_a_run_forgets_the_failures_of_what_it_fetches",
    ),
    Guard(
        "what is in place is no failure any more",
        "planning.py",
        "await self._look_again(objects, decisions)",
        "pass",
        "test_failures.py::test_what_fails_again_stays_and_what_is_in_place_or_adopted_goes",
    ),
    Guard(
        "what a whole listing has no more is forgotten",
        "planning.py",
        "if is_whole and journal.failures.any:",
        "if False:",
        "test_failures.py::test_what_a_whole_listing_has_no_more_is_forgotten",
    ),
    Guard(
        "a listing that is doubted forgets no failure",
        "planning.py",
        "if is_whole and journal.failures.any:",
        "if journal.failures.any:",
        "test_failures.py::test_what_a_listing_lacks_that_is_doubted_is_not_forgotten",
    ),
    Guard(
        "encoding: another locale's is not used",
        "cli/main.py",
        '    if sys.getfilesystemencoding() != "utf-8":\n',
        "    if False:\n",
        "test_encoding.py::test_python_is_started_again_with_the_very_bytes_that_it_was_given",
    ),
    Guard(
        "encoding: arguments keep their bytes",
        "cli/main.py",
        '        return Path("/proc/self/cmdline").read_bytes().split(b"\\0")[:-1]\n',
        "        pass\n",
        "test_encoding.py::test_python_is_started_again_with_the_very_bytes_that_it_was_given",
    ),
    Guard(
        "encoding: nothing is started for ever",
        "cli/main.py",
        " and given[1:3] != _UTF8_MODE:",
        ":",
        "test_encoding.py::test_what_cannot_be_started_again_says_so_and_is_not_started_for_ever",
    ),
    Guard(
        "encoding: streams are UTF-8",
        "cli/main.py",
        '            stream.reconfigure(encoding="utf-8", errors=errors)\n',
        "            pass\n",
        "test_encoding.py::test_what_is_listed_is_utf8_on_stdout_in_every_locale",
    ),
    Guard(
        "encoding: names of the tree are bytes",
        "walk.py",
        "    return name.encode()\n",
        "    return os.fsencode(name)\n",
        "test_encoding.py::test_python_that_takes_names_for_another_encoding_fetches_adopts_and_sets_aside_the_same_names",
    ),
    Guard(
        "encoding: SQLite opens any folder",
        "sqlitefile.py",
        "quote(os.fsencode(path.absolute()))",
        "quote(str(path.absolute()))",
        "test_encoding.py::test_below_a_folder_that_is_no_utf8_every_command_works",
    ),
    Guard(
        "encoding: libcurl finds certificates in any folder",
        "store/fast.py",
        "os.fsencode(session.certificates)",
        "session.certificates",
        "test_encoding.py::test_certificates_are_found_below_a_folder_that_is_no_utf8",
    ),
    Guard(
        "records: what waits is bounded by its bytes",
        "cli/records/outlet.py",
        "if self._waiting and self._waiting_bytes + size > self._bytes_max:",
        "if len(self._waiting) > 1000:",
        "test_records.py::test_a_reader_of_events_that_stalls_costs_little_memory",
    ),
    Guard(
        "machine: too few threads begin no run",
        "machine.py",
        "    if found < THREADS_NEEDED:\n",
        "    if False:\n",
        "test_machine.py::test_too_few_threads_are_named_before_a_run_begins",
    ),
    Guard(
        "machine: too little memory begins no run",
        "machine.py",
        "    if least is not None and least.left < MEMORY_NEEDED:\n",
        "    if False:\n",
        "test_machine.py::test_a_limit_of_the_machine_is_kept_to_or_named",
    ),
    Guard(
        "machine: the narrowest cgroup counts",
        "machine.py",
        "            for at in (folder, *folder.parents):\n",
        "            for at in (folder,):\n",
        "test_machine.py::test_the_memory_of_a_cgroup_is_that_of_the_narrowest_around_the_process",
    ),
    Guard(
        "machine: short memory means fewer objects in flight",
        "settings.py",
        "        if self.memory_bytes is not None:\n",
        "        if False:\n",
        "test_machine.py::test_fewer_objects_are_in_flight_where_memory_is_short",
    ),
    Guard(
        "machine: a disk makes do with its threads",
        "disk.py",
        "            if not self._threads:\n                raise\n",
        "            raise\n",
        "test_machine.py::test_a_disk_goes_on_with_the_threads_that_it_has",
    ),
    Guard(
        "machine: what could not be loaded for want of memory is a limit",
        "cli/main.py",
        "        if (refused := limit_of(error)) is None:\n",
        "        if not (refused := None):\n",
        "test_machine.py::test_a_limit_of_the_machine_is_kept_to_or_named",
    ),
    Guard(
        "machine: CPU time is told before it is over",
        "cli/signals.py",
        "        resource.setrlimit(resource.RLIMIT_CPU, (hard - 1, hard))\n",
        "        pass\n",
        "test_machine.py::test_cpu_time_that_is_limited_is_told_a_second_before_the_kernel_ends_the_process",
    ),
    Guard(
        "doctor: a complete tree needs no room",
        "doctor/judge_destination.py",
        "free.bytes < min(BYTES_MIN, missing_bytes)",
        "free.bytes < BYTES_MIN",
        "test_doctor_judgement.py::test_little_room_is_enough_for_little_that_is_still_to_come",
    ),
    Guard(
        "a file that was written while it was hashed is not adopted",
        "reading.py",
        "if stamp_of(descriptor) != stamp or not leads_to(walk, path, stamp):",
        "if False:",
        "test_file_systems.py::test_a_file_that_changes_while_it_is_hashed_is_never_taken_for_what_it_was",
    ),
    Guard(
        "a file that was written when it got its time is not adopted",
        "reading.py",
        "if after.size != stamp.size or is_other:",
        "if False:",
        "test_file_systems.py::test_a_file_that_changes_while_it_is_hashed_is_never_taken_for_what_it_was",
    ),
    Guard(
        "a file that is found to differ was not written meanwhile",
        "transfer.py",
        "await tools.disk.run(lambda: destination.check_unchanged(descriptor, path, stamp))",
        "pass",
        "test_file_systems.py::test_a_file_that_changes_each_time_that_it_is_hashed_fails_by_name_and_stays",
    ),
    Guard(
        "a file that was written while it was compared is set aside",
        "reading.py",
        "return stamp_of(descriptor) == stamp and leads_to(walk, (name,), stamp)",
        "return True",
        "test_file_systems.py::test_a_file_that_changes_while_it_is_compared_is_set_aside_and_not_overwritten",
    ),
    Guard(
        "a file that changed since it was looked at gets no newer time",
        "destination.py",
        "if (stamp.size, stamp.modified_ns) != (found.size, found.modified_ns):",
        "if False:",
        "test_file_systems.py::test_a_file_that_changes_before_it_gets_a_newer_time_is_looked_at_by_the_next_run",
    ),
    Guard(
        "a mode that is refused fails nothing",
        "attributes.py",
        "if error.errno not in REFUSALS:",
        "if True:",
        "test_file_systems.py::test_a_file_system_that_keeps_less_gets_every_file_says_so_at_once_and_comes_to_rest",
    ),
    Guard(
        "the mtime that a file got is what the next run expects",
        "destination.py",
        "staged.mtime_ns = sealed.modified_ns",
        "pass",
        "test_file_systems.py::test_a_file_system_that_keeps_less_gets_every_file_says_so_at_once_and_comes_to_rest",
    ),
    Guard(
        "the mtime that an adopted file got is what the next run expects",
        "commit.py",
        "has_it = self.adoption or self.staged",
        "has_it = self.staged",
        "test_file_systems.py::test_a_file_system_that_keeps_less_gets_every_file_says_so_at_once_and_comes_to_rest",
    ),
    Guard(
        "a folder keeps its setgid bit",
        "attributes.py",
        "found & stat.S_ISGID if stat.S_ISDIR(found) else 0",
        "0",
        "test_destination.py::test_a_folder_that_gets_another_mode_keeps_its_setgid_bit",
    ),
    Guard(
        "a default ACL lets those in that it names",
        "attributes.py",
        "os.setxattr(descriptor, _ACL, acl)",
        "pass",
        "test_file_systems.py::test_users_that_a_default_acl_names_may_read_everything_below_and_nobody_else_may",
    ),
    Guard(
        "a name that is refused with ENOENT is that object's failure",
        "destination.py",
        "raise refused_name(error, name, folder_fd) from error",
        "raise",
        "test_file_systems.py::test_a_name_that_is_refused_fails_its_own_object_on_every_run_and_no_other",
    ),
    Guard(
        "what finds no room is left over",
        "destination.py",
        "kind = NoRoomError if error.errno in FULL else ObjectError",
        "kind = ObjectError",
        "test_file_systems.py::test_a_disk_without_room_for_more_files_is_full_and_no_object_is_named_as_failed",
    ),
    Guard(
        "a damaged journal has another name before it is unlocked",
        "journal.py",
        """                set_aside(self._path)
            self._connection.close()
""",
        """                self._connection.close()
                set_aside(self._path)
            self._connection.close()
""",
        "test_journal.py::test_while_a_damaged_journal_is_set_aside_there_is_never_a_second_run",
    ),
    Guard(
        "no journal is set aside that another run has begun",
        "journal.py",
        "journal = _unless_damaged(opened)  # Another",
        "journal = None  # Another",
        "test_journal.py::test_a_run_that_found_damage_does_not_set_aside_what_another_has_begun_since",
    ),
    Guard(
        "the lock is that of the journal that has the name",
        "sqlitefile.py",
        "if path.stat().st_ino == before.st_ino:",
        "if True:",
        "test_journal.py::test_a_run_that_got_the_lock_of_a_journal_that_was_set_aside_meanwhile_takes_the_new_one",
    ),
    Guard(
        "nothing that is set aside is overwritten",
        "sqlitefile.py",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))",
        "os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))",
        "test_journal.py::test_what_is_set_aside_in_the_same_second_is_all_kept",
    ),
    Guard(
        "a disk that fails is not said to have no locks",
        "sqlitefile.py",
        "return error.errno in _LOCKLESS",
        "return True",
        "test_journal.py::test_where_no_lock_can_be_had_that_is_said_and_of_a_disk_that_fails_it_is_not",
    ),
    Guard(
        "an error document is named Error",
        "store/answers.py",
        'if _name(root) != "Error":',
        "if False:",
        "test_store.py::test_an_error_document_is_the_whole_answer_and_s3s",
    ),
    Guard(
        "an error document has a code",
        "store/answers.py",
        'if not _CODE.fullmatch(fields.get("Code", "")):',
        "if False:",
        "test_store.py::test_an_error_document_is_the_whole_answer_and_s3s",
    ),
    Guard(
        "an error document declares no entities",
        "store/answers.py",
        'if len(body) > ERROR_BYTES_MAX or b"<!" in body or b"\\0" in body:',
        "if False:",
        "test_store.py::test_an_error_document_is_the_whole_answer_and_s3s",
    ),
    Guard(
        "403 without a document denies no listing",
        "store/answers.py",
        "    if not code:\n        return ListingError(",
        "    if False:\n        return ListingError(",
        "test_intermediaries.py::test_with_narrow_rights_an_answer_of_another_denies_no_part",
    ),
    Guard(
        "403 without a document denies no object",
        "store/answers.py",
        "if code and status == 403:",
        "if status == 403:",
        "test_intermediaries.py::test_such_an_object_fails_by_name_and_a_rerun_brings_it",
    ),
    Guard(
        "404 without a document is no object that is gone",
        "store/answers.py",
        'if code and status == 404 and code != "NoSuchBucket":',
        'if status == 404 and code != "NoSuchBucket":',
        "test_intermediaries.py::test_such_an_object_fails_by_name_and_a_rerun_brings_it",
    ),
    Guard(
        "412 without a document is no object that was replaced",
        "store/answers.py",
        'if code and (status == 412 or code == "PreconditionFailed"):',
        'if status == 412 or code == "PreconditionFailed":',
        "test_intermediaries.py::test_such_an_object_fails_by_name_and_a_rerun_brings_it",
    ),
    Guard(
        "401 without a document is no word on credentials",
        "store/answers.py",
        "if code in CREDENTIAL_CODES or (code and status == 401):",
        "if code in CREDENTIAL_CODES or status == 401:",
        "test_intermediaries.py::test_such_an_object_fails_by_name_and_a_rerun_brings_it",
    ),
    Guard(
        "botocore gets no document that is not S3's",
        "store/strict.py",
        'return bytes(body) if document_of(bytes(body)) else b""',
        "return bytes(body)",
        "test_store.py::test_an_answer_without_such_a_document_denies_nothing",
    ),
    Guard(
        "a HEAD that is refused is asked again by GET",
        "store/reference.py",
        'if error.operation_name == "HeadObject" and status not in _BUSY:',
        "if False:",
        "test_store.py::test_a_head_that_is_refused_says_nothing_and_a_get_is_asked_instead",
    ),
    Guard(
        "headers without an ETag are not the object's",
        "store/reference.py",
        'if not response.get("ETag"):',
        'if not response.setdefault("ETag", remote.etag):',
        "test_intermediaries.py::test_a_head_that_another_answers_sets_no_file_aside",
    ),
    Guard(
        "the reference reader takes a whole body with 200 alone",
        "store/reference.py",
        "if status != 200 and not (is_part and status == 206):",
        "if False:",
        "test_store.py::test_bytes_come_with_200_alone",
    ),
    Guard(
        "a listing that is redirected is asked for again",
        "listing.py",
        "except (TransientError, ListingError, RedirectRefusedError) as error:",
        "except (TransientError, ListingError) as error:",
        "test_intermediaries.py::test_a_first_listing_that_is_answered_by_another_is_asked_again_and_goes_on",
    ),
    Guard(
        "a proxy that refuses is asked again",
        "listing.py",
        "is_silent = is_gone and not (isinstance(error, ProxyError) and error.has_answered)",
        "is_silent = is_gone",
        "test_intermediaries.py::test_a_proxy_that_refuses_is_asked_again_before_a_run_is_given_up",
    ),
    Guard(
        "a first listing that takes long to fail is not asked for again and again",
        "listing.py",
        "pause = None if is_silent or is_late else patience.after(error)",
        "pause = None if is_silent else patience.after(error)",
        "test_intermediaries.py::test_a_first_listing_that_takes_long_to_fail_is_not_asked_for_three_times",
    ),
    Guard(
        "a proxy that is silent after CONNECT is given up",
        "store/strict.py",
        'options["timeout"] = _with_proxy(self._session.timeout)',
        "pass",
        "test_intermediaries.py::test_a_proxy_that_never_answers_is_not_waited_for_without_end",
    ),
    Guard(
        "a proxy is named with its status",
        "store/strict.py",
        "if isinstance(cause, ClientHttpProxyError):",
        "if False:",
        "test_intermediaries.py::test_a_proxy_that_does_not_connect_is_named_with_what_it_said",
    ),
    Guard(
        "a proxy is shown without its password",
        "store/strict.py",
        'host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname',
        "host = parts.netloc",
        "test_intermediaries.py::test_a_proxy_is_shown_without_its_password",
    ),
    Guard(
        "a redirect of an object is that object's failure",
        "store/answers.py",
        "        return RedirectedError(_redirect(status, headers, where))\n",
        "        return _redirect(status, headers, where)\n",
        "test_intermediaries.py::test_one_redirected_object_fails_by_name_and_the_night_goes_on",
    ),
    Guard(
        "object after object that is redirected ends the run",
        "failurelimits.py",
        "is_of_all = not self.has_proof and (len(set(self.redirected)) > 1 or count >= REDIRECTED_MAX)",
        "is_of_all = False",
        "test_intermediaries.py::test_object_after_object_that_is_redirected_is_5_and_names_the_region",
    ),
    Guard(
        "two objects that are left and redirected do not end a run that had others",
        "failurelimits.py",
        "is_of_all = not self.has_proof and (",
        "is_of_all = (",
        "test_intermediaries.py::test_on_a_rerun_two_redirected_objects_that_are_left_are_two_failures",
    ),
    Guard(
        "a part that the group does not show is asked for a key",
        "listing.py",
        "return None if page.objects or page.token else PartState.ABSENT",
        "return PartState.ABSENT",
        "test_intermediaries.py::test_a_part_that_the_group_does_not_show_is_asked_for_before_it_is_absent",
    ),
    Guard(
        "a part that is empty where the group may not be listed is not absent",
        "listing.py",
        "    if is_denied:\n",
        "    if False:\n",
        "test_listing.py::test_without_the_right_to_list_the_group_each_part_is_asked_for_one_key",
    ),
    Guard(
        "the part sizes that are tried give as many parts",
        "digests.py",
        "usual for usual in USUAL_PART_BYTES if least <= usual <= most",
        "usual for usual in USUAL_PART_BYTES",
        "test_digests.py::test_every_size_that_is_tried_gives_as_many_parts_and_they_are_few",
    ),
    Guard(
        "usual part sizes prove what the server does not know",
        "proof.py",
        "    if await _has_usual_parts(remote, chunks, disk):",
        "    if False:",
        "test_proof.py::test_parts_that_cannot_be_asked_for_have_usual_sizes",
    ),
    Guard(
        "usual part sizes are held against the ETag",
        "digests.py",
        "if parts.etag() == etag.lower()), None)",
        "if parts.etag()), None)",
        "test_digests.py::test_a_part_size_is_found_in_one_reading_and_only_the_right_one",
    ),
    Guard(
        "fast does not fall back to the other client",
        "store/fast.py",
        "if self._is_required and not works:",
        "if False:",
        "test_intermediaries.py::test_where_libcurl_gets_nothing_auto_reads_by_the_other_client_and_fast_ends_with_5",
    ),
    Guard(
        "providers: all that one raises is a reason",
        "store/providers.py",
        "except Exception as error:  # noqa: BLE001 - all that a provider raises is a reason.",
        "except ValueError as error:",
        "test_providers.py::test_whatever_a_provider_raises_is_a_reason",
    ),
    Guard(
        "providers: no MFA code is asked for",
        "store/providers.py",
        "provider._prompter = _refuse_to_prompt",
        "pass",
        "test_providers.py::test_whatever_a_profile_lacks_is_a_reason",
    ),
    Guard(
        "providers: the AWS CLI's cache of roles is read",
        "store/providers.py",
        "provider.cache = _CliCache()",
        "pass",
        "test_providers.py::test_what_the_aws_cli_was_told_a_code_for_is_used_and_nothing_is_written",
    ),
    Guard(
        "providers: the AWS CLI's cache of roles is not written",
        "store/providers.py",
        "    def __setitem__(self, key: object, value: object) -> None:",
        "    def _unused(self, key: object, value: object) -> None:",
        "test_providers.py::test_what_the_aws_cli_was_told_a_code_for_is_used_and_nothing_is_written",
    ),
    Guard(
        "providers: a source profile's program is bounded as well",
        "store/providers.py",
        "provider._profile_provider_builder._create_process_provider = of_process",
        "pass",
        "test_providers.py::test_the_program_of_a_source_profile_has_no_terminal_either",
    ),
    Guard(
        "providers: what was fetched just now is not fetched again",
        "store/providers.py",
        "found._advisory_refresh_timeout = 0",
        "pass",
        "test_providers.py::test_every_provider_gives_credentials_in_one_go",
    ),
    Guard(
        "providers: STS proves its name in every environment",
        "store/providers.py",
        'options["verify"] = get_cert_path(certificates_of(self) or True)',
        "pass",
        "test_providers.py::test_sts_is_asked_as_strictly_as_s3",
    ),
    Guard(
        "providers: what is late is ended",
        "store/providers.py",
        "        attempt.programs.end()",
        "        pass",
        "test_providers.py::test_a_program_that_is_not_waited_for_is_ended_with_all_that_it_started",
    ),
    Guard(
        "providers: programs end with all that they started",
        "store/programs.py",
        "os.killpg(process.pid, signal.SIGKILL)",
        "process.kill()",
        "test_providers.py::test_a_program_that_is_not_waited_for_is_ended_with_all_that_it_started",
    ),
    Guard(
        "providers: a program has no terminal",
        "store/programs.py",
        "start_new_session=True,",
        "",
        "test_providers.py::test_a_program_has_no_terminal",
    ),
    Guard(
        "providers: a program's output is bounded",
        "store/programs.py",
        "while len(written) <= OUTPUT_BYTES_MAX:",
        "while len(written) <= 1 << 40:",
        "test_providers.py::test_whatever_a_program_does_instead_is_a_reason",
    ),
    Guard(
        "providers: what a program leaves behind is not waited for",
        "store/programs.py",
        "elif has_ended:",
        "elif False:",
        "test_providers.py::test_what_a_program_leaves_behind_may_keep_its_pipe_open",
    ),
    Guard(
        "providers: keys that cannot be sent are named",
        "store/providers.py",
        "check(keys.access_key, keys.secret_key, keys.token, method)",
        "pass",
        "test_providers.py::test_a_key_that_cannot_be_sent_is_named_and_not_shown",
    ),
    Guard(
        "providers: a renewal that fails matters to no request before the credentials end",
        "store/session.py",
        "with suppress(CredentialsError):",
        "with suppress(KeyError):",
        "test_providers.py::test_a_renewal_that_fails_matters_when_the_credentials_have_ended",
    ),
    Guard(
        "providers: credentials that have ended are not used",
        "store/session.py",
        "if self._left() <= 0:",
        "if False:",
        "test_providers.py::test_a_renewal_that_fails_matters_when_the_credentials_have_ended",
    ),
    Guard(
        "providers: they have the time that is left of a hold",
        "governor.py",
        "return max(0.0, self._began[self._reason] + self._time_for(self._reason) - self._clock.now())",
        "return self._retry_for",
        "test_governor.py::test_a_provider_has_the_time_that_is_left_of_the_hold",
    ),
    Guard(
        "providers: --max-duration ends the wait for them",
        "operations.py",
        "session = await brake.unless_stopped(stack.enter_async_context(opening))",
        "session = await stack.enter_async_context(opening)",
        "test_providers.py::test_max_duration_ends_a_run_whose_credentials_do_not_come",
    ),
    Guard(
        "settings: REQUESTS_CA_BUNDLE comes last",
        "store/providers.py",
        'core.get_config_variable("ca_bundle") or core.get_config_variable("requests_ca_bundle")',
        'core.get_config_variable("ca_bundle")',
        "test_tls.py::test_certificates_are_named_as_for_the_aws_cli",
    ),
    Guard(
        "settings: a tilde is the home folder",
        "store/providers.py",
        "return os.path.expanduser(str(named)) if named else None",
        "return str(named) if named else None",
        "test_tls.py::test_certificates_are_named_as_for_the_aws_cli",
    ),
    Guard(
        "settings: NO_PROXY is held against the endpoint",
        "store/session.py",
        "get_environ_proxies(client.meta.endpoint_url)",
        "get_environ_proxies(base_url)",
        "test_aws_settings.py::test_a_setting_leads_where_it_leads_the_aws_cli",
    ),
    Guard(
        "pauses: what is read for a hold that is over decides nothing",
        "governor.py",
        "        if not self._is_lead(lead):\n            return False\n",
        "",
        "test_governor.py::test_a_pause_ends_as_the_table_has_it",
    ),
    Guard(
        "pauses: who asks when the window closes leads no longer",
        "governor.py",
        "            self._lead = None\n            self._reason, self._since = Wait.WINDOW",
        "            self._reason, self._since = Wait.WINDOW",
        "test_governor.py::test_a_pause_ends_as_the_table_has_it",
    ),
    Guard(
        "pauses: outside of the hours nothing is given up",
        "governor.py",
        "        if self._is_shut or self._ending is not None:\n            return\n        now",
        "        now",
        "test_governor.py::test_being_told_to_slow_down_outside_of_the_hours_ends_nothing",
    ),
    Guard(
        "pauses: each reason has its own time",
        "governor.py",
        "since = self._began.setdefault(self._reason, now)",
        "since = self._began.setdefault(self._reason, self._since)",
        "test_governor.py::test_each_reason_within_a_hold_has_its_own_time",
    ),
    Guard(
        "the canonical path: a listing is signed over the slash that is sent",
        "store/address.py",
        "{self.folder or '/'}",
        "{self.folder}",
        "test_address.py::test_what_is_signed_is_what_is_sent",
    ),
    Guard(
        "the canonical query: a listing's is in SigV4's order",
        "store/address.py",
        "pairs = sorted((",
        "pairs = list((",
        "test_signing.py::test_a_listing_is_asked_for_as_in_awss_example",
    ),
    Guard(
        "the Host header: the scheme's own port is neither sent nor signed",
        "store/address.py",
        "if parts.port is not None and parts.port != _PORTS.get(parts.scheme):",
        "if parts.port is not None:",
        "test_address.py::test_what_is_signed_is_what_is_sent",
    ),
    Guard(
        "the region of signatures is that of AWS's endpoint rules",
        "store/session.py",
        'signing.get("region") or client.meta.region_name',
        "client.meta.region_name",
        "test_address.py::test_what_is_signed_is_what_is_sent",
    ),
    Guard(
        "the signer signs the query that is sent",
        "store/signing.py",
        'request = f"GET\\n{path}\\n{query}\\n',
        'request = f"GET\\n{path}\\n\\n',
        "test_signing.py::test_awss_own_examples_come_out",
    ),
    Guard(
        "a host below localhost is looked up nowhere",
        "store/strict.py",
        'return "localhost" if host.endswith(".localhost") else host',
        "return host",
        "test_address.py::test_a_host_below_localhost_is_this_machine",
    ),
    Guard(
        "the ARN of an access point is refused by name",
        "settings.py",
        'if name.startswith("arn:"):',
        "if False:",
        "test_address.py::test_what_is_no_general_purpose_bucket_is_refused_by_name",
    ),
    Guard(
        "the reserved names of other kinds of buckets are refused",
        "settings.py",
        "if name.endswith(ending):",
        "if False:",
        "test_address.py::test_what_is_no_general_purpose_bucket_is_refused_by_name",
    ),
    # Numbers and encodings of a listing, the end of a run, and passwords in endpoints.
    Guard(
        "a listing in an encoding that is not known is no listing",
        "store/pages.py",
        "except (ET.ParseError, ValueError, LookupError) as error:",
        "except ET.ParseError as error:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "a listed size fits into 64 bits",
        "store/pages.py",
        "if not 0 <= size <= _NUMBER_MAX:",
        "if not 0 <= size:",
        "test_listing.py::test_anything_but_a_whole_listing_of_the_prefix_is_an_error",
    ),
    Guard(
        "a listed time fits into 64 bits",
        "store/pages.py",
        "min(max(milliseconds, -_MILLISECONDS_MAX), _MILLISECONDS_MAX)",
        "milliseconds",
        "test_listing.py::test_a_time_that_the_journal_cannot_hold_becomes_the_nearest_that_it_can",
    ),
    Guard(
        "a run that has ended waits for no provider",
        "governor.py",
        "        if self._ending is not None:\n            return 0.0\n",
        "",
        "test_governor.py::test_once_the_run_has_ended_a_provider_has_no_time_left",
    ),
    Guard(
        "headers that are not used are not read",
        "store/strict.py",
        "if _USED.fullmatch(name) or",
        "if True or",
        "test_store.py::test_a_header_that_cannot_be_read_is_nothing_to_a_reader",
    ),
    Guard(
        "a region that can be none is not shown in a command",
        "store/answers.py",
        "return region if _REGION.fullmatch(region) else None",
        "return region or None",
        "test_store.py::test_a_region_that_can_be_none_is_not_part_of_a_command",
    ),
    Guard(
        "a date beyond all bounds is none",
        "store/answers.py",
        "except (ValueError, TypeError, OverflowError):",
        "except (ValueError, TypeError):",
        "test_store.py::test_a_date_that_is_none_is_nothing_to_a_doctor",
    ),
    Guard(
        "a password in AWS_ENDPOINT_URL is not repeated",
        "store/session.py",
        '_USER.sub("//...@", str(error))',
        "str(error)",
        "test_store.py::test_an_endpoint_that_is_none_is_a_usage_error_and_a_password_in_it_is_not_repeated",
    ),
    Guard(
        "what is open already is not opened once more",
        "streams.py",
        "if _NUMBER.fullmatch(name) and _has_descriptors(folder):",
        "if False:",
        "test_outputs.py::test_what_options_write_to_is_written_through_and_stays_what_it_is",
    ),
    Guard(
        "a default ACL lets in no one that it does not name",
        "attributes.py",
        "allowed & most.get(kind, 7)",
        "allowed",
        "test_file_systems.py::test_users_that_a_default_acl_names_may_read_everything_below_and_nobody_else_may",
    ),
    Guard(
        "a number that no descriptor has names none",
        "streams.py",
        "if _NUMBER.fullmatch(name) and",
        "if name.isdecimal() and",
        "test_outputs.py::test_a_path_that_names_a_descriptor_is_known",
    ),
    Guard(
        "a NUL in a configuration file is refused",
        "cli/configfile.py",
        'if any("\\0" in item',
        'if False and any("\\0" in item',
        "test_config.py::test_what_a_file_cannot_say_is_2_and_names_file_key_and_what_would_be_right",
    ),
    Guard(
        "the journal's thread alone looks for failures",
        "failures.py",
        "self.any = bool(found)",
        "pass",
        "test_journal.py::test_whether_anything_failed_is_known_without_asking_the_disk",
    ),
    Guard(
        "a time that SQLite cannot keep is not given to it",
        "rows.py",
        " or abs(mtime_ns) > INTEGER_MAX",
        "",
        "test_journal.py::test_what_sqlite_has_no_number_for_is_no_defect",
    ),
    Guard(
        "a size that SQLite cannot keep is not given to it",
        "journal.py",
        "min(size, INTEGER_MAX)",
        "size",
        "test_journal.py::test_what_sqlite_has_no_number_for_is_no_defect",
    ),
    Guard(
        "a time that no file can have is no change",
        "reading.py",
        "is_other = stamp_of(descriptor).modified_ns != after.modified_ns",
        "pass",
        "test_destination.py::test_a_time_that_no_file_can_have_is_no_change",
    ),
    Guard(
        "an ETag in a plan is text",
        "planfile.py",
        " and _TEXT.fullmatch(etag) is not None",
        "",
        "test_planfile.py::test_a_bad_line_is_named_by_its_number",
    ),
    Guard(
        "a part in a plan is text",
        "planfile.py",
        " and _TEXT.fullmatch(part_of(key, group)) is not None",
        "",
        "test_planfile.py::test_a_bad_line_is_named_by_its_number",
    ),
    Guard(
        "parts that are denied: no body is taken by its size for it",
        "proof.py",
        "            raise\n        trouble = error\n",
        "            raise\n",
        "test_proof.py::test_a_denial_of_parts_of_an_unusual_size_is_no_reason_to_take_a_body_by_its_size",
    ),
    Guard(
        "exit code: that of a lost terminal is no 120",
        "cli/main.py",
        "    finally:\n        _let_go_of_a_lost_terminal()\n",
        "    finally:\n        pass\n",
        "test_screens.py::test_a_terminal_that_goes_away_ends_the_run_as_its_signal_does",
    ),
)


class Verdict(StrEnum):
    """What became of a run of a test."""

    FAILED = "failed"
    PASSED = "passed"
    UNUSABLE = "proves nothing"


@dataclass(frozen=True, slots=True)
class Trial:
    """A test that was run.

    Attributes:
        verdict: How it ended.
        seconds: How long it took.
        output: What pytest said.
    """

    verdict: Verdict
    seconds: float
    output: str

    @property
    def why(self) -> str:
        """What pytest says went wrong first: a guard that is missed should be missed for what it is for."""
        return next((line for line in self.output.splitlines() if line.startswith("E  ")), "")


@contextmanager
def copied_tree() -> Iterator[Path]:
    """Copy what tests need to a folder of its own."""
    with TemporaryDirectory(prefix="nccid-mutant-") as folder:
        yield Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=_LEFT_OUT))


def try_tests(tree: Path, tests: Sequence[str]) -> Trial:
    """Run some tests in a copy of the tree, up to the first failure."""
    command = [
        *(sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("--timeout", str(_TEST_SECONDS_MAX), "--durations=0", *(f"tests/{test}" for test in tests)),
    ]
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTEST_ADDOPTS": ""}
    try:
        ended = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX + 4 * len(tests),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(Verdict.UNUSABLE, time.monotonic() - began, "it came to no end")
    output = ended.stdout + ended.stderr
    return Trial(verdict_of(ended.returncode, output), time.monotonic() - began, output)


def verdict_of(code: int, output: str) -> Verdict:
    """Return what a run of pytest shows, by its exit code and what it said.

    A test that came to no end shows nothing: on a machine that is busy, that may be any test.
    """
    if _TIMED_OUT in output:
        return Verdict.UNUSABLE
    return {0: Verdict.PASSED, _FAILED: Verdict.FAILED}.get(code, Verdict.UNUSABLE)


def try_without(guard: Guard) -> Trial:
    """Run a guard's test where the guard is gone."""
    with copied_tree() as tree:
        module = tree / PACKAGE / guard.module
        module.write_text(guard.removed_from(module.read_text()))
        return try_tests(tree, [guard.test])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="See whether the tests bite.")
    parser.add_argument("words", nargs="*", help="only guards whose name has one of these in it")
    parser.add_argument("--why", action="store_true", help="show how each test failed")
    options = parser.parse_args()
    words = options.words
    guards = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    if not guards:
        parser.error("there is no such guard")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tests = list(dict.fromkeys(guard.test for guard in guards))
    shares = [tests[number::cores] for number in range(min(cores, len(tests)))]
    began = time.monotonic()
    with ThreadPoolExecutor(cores) as threads:
        with copied_tree() as tree:
            for trial in threads.map(lambda share: try_tests(tree, share), shares):
                if trial.verdict is not Verdict.PASSED:
                    print(trial.output)
                    print("without any change, the tests have to pass")
                    return 1
        survivors = 0
        for guard, trial in zip(guards, threads.map(try_without, guards), strict=True):
            bites = trial.verdict is Verdict.FAILED
            survivors += not bites
            print(f"{'ok' if bites else 'SURVIVED':8}  {trial.seconds:5.1f} s  {guard.name}", flush=True)
            if options.why:
                print(f"          {trial.why}", flush=True)
            if not bites:
                print(f"          {guard.test} {trial.verdict}", flush=True)
                if trial.verdict is Verdict.UNUSABLE:
                    print(trial.output)
    print(f"{len(guards)} guards taken away, {survivors} not missed, {time.monotonic() - began:.0f} s")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
