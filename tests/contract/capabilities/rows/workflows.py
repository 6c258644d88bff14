"""What goes beyond one run of an agent, and is shown by tests of its own."""

from __future__ import annotations

from tests.contract.capabilities.row import Shown

__all__ = ["SHOWN"]

SHOWN = [
    Shown(
        name="steps that share a conversation, a worker killed between two of them",
        by="tests/acceptance/test_conversations.py::test_a_killed_worker_leaves_each_turn_in_the_history_once",
    ),
    Shown(
        name="a conversation beyond one workflow",
        by="tests/unit/agents/test_conversations.py::test_an_id_reaches_beyond_one_workflow_and_a_name_does_not",
    ),
    Shown(
        name="a watched stream, a worker killed in the middle of it, read with `AGUIEventStream` and "
        "`VercelAIEventStream`",
        by="tests/acceptance/test_watched.py::test_a_screen_sees_to_its_end_what_a_killed_process_began",
    ),
    Shown(
        name="files in prompts and outputs, a worker killed in the step that reads them",
        by="tests/acceptance/test_files.py::test_files_reach_the_model_of_each_attempt_although_none_travels",
    ),
    Shown(
        name="an image as output, which the next step's model gets as an image",
        by="tests/unit/agents/test_previous_files.py::test_an_image_of_an_agent_is_an_image_for_the_next_one",
    ),
    Shown(
        name="a step that is shorter than its provider's job",
        by="tests/unit/agents/test_durability_waits.py::test_a_step_that_is_shorter_than_its_job_ends",
    ),
    Shown(
        name="a job whose step is retried, and a worker that ends",
        by="tests/acceptance/test_provider_jobs.py::"
        "test_attempts_end_and_the_job_goes_on_until_its_workflow_is_cancelled",
    ),
    Shown(
        name="`RunCancelled` in a step",
        outcome="ends the workflow as failed, at the first attempt",
        by="tests/unit/agents/test_stopped_runs.py::test_a_step_whose_code_cancels_its_run_fails_at_once",
    ),
    Shown(
        name="`run(timeout=…)` in a step that is retried",
        outcome="works; each attempt has the whole time",
        by="tests/unit/agents/test_stopped_runs.py::test_a_run_has_its_whole_time_in_each_attempt",
    ),
    Shown(
        name="`run_sync` in a step that is no coroutine",
        by="tests/unit/agents/test_durability_streams.py::test_a_run_in_a_functions_thread_is_recorded",
    ),
    Shown(
        name="several agents of which the first to answer wins",
        by="tests/unit/agents/test_durability_order.py::test_the_agent_that_answers_first_wins_in_each_attempt",
    ),
    Shown(
        name="changed code that ends a run earlier than its records",
        outcome="parks, because half of what was paid for is no result",
        by="tests/unit/agents/test_durability_order.py::test_a_run_that_ends_before_its_recorded_calls_is_parked",
    ),
    Shown(
        name="operations over messages",
        outcome="works; their schemas are built once in each process",
        by="tests/unit/agents/test_binding.py::test_a_second_hop_binds_nothing_and_builds_no_schema",
    ),
]
