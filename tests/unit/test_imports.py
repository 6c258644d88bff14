"""What importing the package loads and what it leaves alone, each in its own process."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent


def run(code: str) -> str:
    """Run a program that does not see your own configuration, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_no_library_behind_it() -> None:
    """A web process that may never dispatch pays nothing for having the package installed."""
    heavy = run(
        """
        import sys
        import paigeant_celery
        print(sorted({"celery", "kombu", "redis", "pydantic_ai", "pydantic", "click"} & set(sys.modules)))
        """
    )

    assert heavy == "[]"


def test_a_process_that_dispatches_and_waits_never_loads_pydantic_ai() -> None:
    """The agents' library takes most of a second and a thousand modules; a web process does without."""
    seen = run(
        """
        import sys
        from paigeant_celery import ActivitySpec, FunctionSpec, StepPolicy, WorkflowDispatcher, activity, get_transport
        import paigeant_celery.worker.executor, paigeant_celery.worker.install, paigeant_celery.tasks

        @activity
        def shout(text: str) -> str:
            return text.upper()

        transport = get_transport("inmemory")
        dispatcher = WorkflowDispatcher()
        dispatcher.add(ActivitySpec("writer", "write", policy=StepPolicy(timeout=5)))
        dispatcher.add(shout.activity(text="hey"))
        workflow = dispatcher.dispatch_workflow_sync(transport)
        print(dispatcher.handle(workflow, transport).status_sync().remaining, "pydantic_ai" in sys.modules)
        """
    )

    assert seen == "('writer', 'shout') False"


def test_a_process_that_dispatches_celery_tasks_loads_no_agent_library_and_makes_no_task() -> None:
    """The module of a host's tasks is loaded by its web processes, too, while its app is still being set up."""
    seen = run(
        """
        import sys
        from celery import Celery, signature
        from paigeant_celery import WorkflowDispatcher, get_transport, register_task

        app = Celery("shop")

        @app.task(name="shop.charge")
        def charge(order): ...

        register_task(charge)
        before = (app.configured, app.finalized, charge.__evaluated__())
        transport = get_transport("inmemory")
        dispatcher = WorkflowDispatcher()
        dispatcher.add(charge.s(order=17))
        dispatcher.add(signature("shop.elsewhere"))
        workflow = dispatcher.dispatch_workflow_sync(transport)
        remaining = dispatcher.handle(workflow, transport).status_sync().remaining
        print(before, remaining, "pydantic_ai" in sys.modules, sorted(t for t in app.tasks if "celery." not in t))
        """
    )

    assert seen == "(False, False, False) ('shop.charge', 'shop.elsewhere') False ['shop.charge']"


def test_a_memory_store_does_not_load_the_client_of_redis() -> None:
    """A process without a Redis store does not need its client."""
    seen = run(
        """
        import sys
        from paigeant_celery import get_transport
        get_transport("inmemory")
        print("redis" in sys.modules)
        """
    )

    assert seen == "False"


def test_importing_us_does_not_change_the_current_app_of_a_host() -> None:
    """The host's `shared_task` and `.delay()` still reach the host's own broker."""
    seen = run(
        """
        from celery import Celery, current_app
        host = Celery("host", broker="memory://localhost//")
        import paigeant_celery, paigeant_celery.client.dispatch, paigeant_celery.broker.transport
        import paigeant_celery.worker.install
        import paigeant_celery.agents.agent, paigeant_celery.worker.executor, paigeant_celery.activities.functions
        import paigeant_celery.tasks
        paigeant_celery.get_transport("inmemory")
        print(current_app._get_current_object() is host, sorted(t for t in host.tasks if "celery." not in t))
        """
    )

    assert seen == "True []"


def test_importing_us_before_the_host_makes_no_app_current() -> None:
    """If we are imported first, the host's app still becomes the current one."""
    seen = run(
        """
        import paigeant_celery.client.dispatch, paigeant_celery.broker.transport
        paigeant_celery.broker.transport.get_transport("inmemory")
        from celery import Celery, _state
        before = (_state.default_app, _state._tls.current_app)
        host = Celery("host")
        print(before, _state.get_current_app() is host)
        """
    )

    assert seen == "(None, None) True"


def test_public_names_load_on_first_use_and_others_are_no_attributes() -> None:
    """`from paigeant_celery import *`, completion and typos behave as with any package."""
    seen = run(
        """
        import paigeant_celery
        missing = [name for name in paigeant_celery.__all__ if not hasattr(paigeant_celery, name)]
        unlisted = set(paigeant_celery.__all__) - set(dir(paigeant_celery))
        try:
            paigeant_celery.nothing
        except AttributeError as error:
            print(missing, unlisted, error)
        """
    )

    assert seen == "[] set() module 'paigeant_celery' has no attribute 'nothing'"


def test_the_pages_of_flower_name_what_to_install() -> None:
    """Flower is optional; `flowerconfig.py` of somebody who lacks it should say more than a module's name."""
    said = run(
        """
        import sys
        sys.modules["flower"] = None  # as if it were not there
        try:
            import paigeant_celery.flower
        except ModuleNotFoundError as error:
            print(error)
        """
    )

    assert 'pip install "paigeant_celery[flower]"' in said
