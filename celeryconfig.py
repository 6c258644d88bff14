"""The reference of every setting, and a configuration of the stand-alone app (`celery -A paigeant_celery …`).

A host application sets the same `paigeant_*` keys in its own Celery configuration (Django:
`CELERY_PAIGEANT_*`). Lines that are commented out show the defaults. Times are in seconds, sizes in bytes.
"""

# --- Celery, as the stand-alone app has it -----------------------------------------------------------------

# The broker: any Kombu URL. The steps of a workflow may run on any worker that reaches it. The default is the Redis of
# the environment variable `PAIGEANT_REDIS_URL` if there is one.
# broker_url = "redis://localhost:6379/0"

# If the broker is not up yet, wait for it instead of ending.
# broker_connection_retry_on_startup = True

# One message at a time per slot: a step takes minutes, and messages should wait where other workers see them.
# worker_prefetch_multiplier = 1

# After a lost connection, Celery lowers the prefetch count while steps that began before it still run, and raises it
# again from their threads. In the threads pool on RabbitMQ a worker then sometimes took no more messages.
# worker_enable_prefetch_count_reduction = False

# On RabbitMQ, messages of steps are confirmed without it. If you set it for tasks, Celery's events wait for the broker
# as well: under RabbitMQ's memory alarm a worker then takes nothing more.
# broker_transport_options = {"confirm_publish": True}

# Lets Flower see the hops.
# worker_send_task_events = True

# Outputs are read from the store; no result backend is needed. If you name one, results of other tasks are kept.
# task_ignore_result = True

# --- paigeant_celery -------------------------------------------------------------------------------------

# The store: a Redis URL, or "broker" for the broker's own Redis database, which is the default of the stand-alone app
# on Redis. If it is unset (None, the default for a host application and on other brokers), nothing is recorded: a step
# runs as often as the broker delivers it, `status`, `result`, `events` and `cancel` raise `StoreRequired`, and what
# cannot continue waits on the queue `<prefix>-dead-letters`.
# paigeant_store_url = None

# What this worker serves. "also", the default for a host application: its other queues and every loaded activity.
# "only", the default of the stand-alone app: every loaded activity and no other queue, because tasks of other
# applications may wait on its Redis in Celery's default queue. "no": no activity. Names, such as ("writer", "critic"):
# its other queues and these activities. If it is not set, `-Q` of a worker says which activities that worker serves.
# Whoever serves any activity also serves `_flow`, the steps that wait, unless `-X` excludes its queue.
# paigeant_consume = "also"

# The names of queues, tasks and store keys begin with it. Two deployments on one Redis need two prefixes.
# paigeant_prefix = "paigeant"

# How long one attempt of a step may take, unless the step or the activity says otherwise (1 hour).
# paigeant_step_timeout = 3600.0

# How often a hop may be begun, unless the step or the activity says otherwise. Attempts that failed count, and so do
# attempts whose worker died. After the last one the workflow is parked, so that it does not loop.
# paigeant_max_attempts = 5

# How long a step waits before its second attempt, unless the step or the activity says otherwise. The wait doubles with
# each further attempt, up to five minutes. A step that waits holds no slot of a worker.
# paigeant_retry_backoff = 1.0

# How long a worker that stops answering keeps the hops that it runs. It renews this lease four times in that time. With
# less than 5 s, an outage of the store of 2.5 s may already look like the end of all workers.
# paigeant_lease = 10.0

# How long a dispatch waits for the broker. What is recorded by then is sent by a sweep, so the caller loses nothing by
# giving up. A worker waits as long for what it sends without a store, and for nobody otherwise.
# paigeant_publish_timeout = 10.0

# How long steps continue after a worker is told to end (SIGTERM). They are then given back, and another worker begins
# them again; no attempt is spent. Set it to less than your service manager waits before it kills: 30 s in Kubernetes,
# 10 s in Docker, 90 s in systemd.
# paigeant_shutdown_grace = 25.0

# How long the record of an ended workflow is kept (7 days).
# paigeant_result_ttl = 604800.0

# How old a message may be if the store does not know its workflow (3 days). A younger message is adopted, because it
# carries everything that the workflow needs to continue. An older one may have run before. The limit is never longer
# than `paigeant_result_ttl`, for which the store knows what has ended.
# paigeant_max_message_age = 259200.0

# The largest envelope that is sent or accepted (1 MiB).
# paigeant_max_message_size = 1048576

# The largest output that travels inside the message, in bytes (1 KiB). A larger one is stored once and travels as a
# reference, so that a message does not grow with each step. The files of prompts travel while all of a message together
# are no larger than this as base64.
# paigeant_inline_output_size = 1024

# How much of the slip travels, in bytes of JSON. Beyond it the records of earlier steps, and the steps after the next
# few, stay in the store, so that the message of a long workflow is no larger than that of a short one.
# paigeant_inline_log_size = 4096

# The largest output of a step (16 MiB). With a larger one the workflow is parked (`output_too_large`). A larger file in
# a prompt is refused (`too_large`).
# paigeant_max_output_size = 16777216

# The largest history of a conversation (16 MiB). A step of a larger one is parked (`conversation_too_large`).
# paigeant_max_conversation_size = 16777216

# The most steps of a workflow, or of a branch of a block, including those that agents insert. With more it is parked
# (`loop_limit`).
# paigeant_max_steps = 256

# The most branches of one block. A `parallel` with more is refused, a `for_each` over more items is parked
# (`too_many_branches`): the limit is for a list that a model made too long. At most 10000, the hops of a workflow.
# paigeant_max_branches = 1000

# How often one activity may stand in a workflow once agents insert it.
# paigeant_max_visits = 16

# Start even if the Redis of the store may evict records when it is full (`maxmemory-policy`). Records that are evicted
# are workflows that never end.
# paigeant_allow_eviction = False

# What is around each step, as a task class that enters an application context is around tasks: a function that takes
# the `WorkflowContext` and returns a sync or async context manager, or the dotted path of one ("shop.web.in_context").
# paigeant_around_step = None
