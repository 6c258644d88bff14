"""Configuration of the stand-alone app (`celery -A paigeant_celery …`), and the reference of every setting.

A host application sets the same `paigeant_*` keys in its own Celery configuration (Django:
`CELERY_PAIGEANT_*`). What is commented out shows the default. Times are in seconds, sizes in bytes.
"""

import os

# The broker. Any Kombu URL; steps of a workflow may run on any worker that reaches it.
broker_url = os.environ.get("PAIGEANT_REDIS_URL") or "redis://localhost:6379/0"

# Wait for a broker that is not up yet, instead of ending.
broker_connection_retry_on_startup = True

# One message at a time per slot: a step takes minutes, and what waits should wait where other workers see it.
worker_prefetch_multiplier = 1

# After a lost connection, Celery lowers the prefetch count for as long as steps run that began before it, and raises
# it again from their threads; in the threads pool on RabbitMQ a worker then sometimes took no message any more.
worker_enable_prefetch_count_reduction = False

# On RabbitMQ: `broker_transport_options = {"confirm_publish": True}`, so that the broker loses no message that it never
# wrote down. `get_transport("amqp://…")` sets it.

# Lets Flower see the hops.
worker_send_task_events = True

# Outputs are read from the store; no result backend is needed.
task_ignore_result = True

# --- paigeant_celery -------------------------------------------------------------------------------------

# The store: a Redis URL, or "broker" for the broker's own Redis database. Unset (None, the default for a host
# application): nothing is recorded, a step runs as often as the broker delivers it, `status`, `result`, `events` and
# `cancel` raise `StoreRequired`, and what cannot go on waits on the queue `<prefix>-dead-letters`.
paigeant_store_url = "broker"

# What this worker serves: "also" (the default for a host application) every loaded activity beside its other
# queues, "only" those and no other queue, "no" activity at all, or its other queues and the named activities:
# ("writer", "critic"). Here "only": other applications' tasks may wait on this Redis in Celery's default queue.
paigeant_consume = "only"

# Begins the names of queues, tasks and store keys; two deployments on one Redis need two.
# paigeant_prefix = "paigeant"

# The longest time that one attempt of a step may take, where neither step nor activity says (1 hour).
# paigeant_step_timeout = 3600.0

# How often a hop may be begun, where neither step nor activity says: attempts that failed and attempts whose worker
# died. Behind the last one the workflow is parked, instead of looping.
# paigeant_max_attempts = 5

# How long a step waits before its second attempt, where neither step nor activity says; doubled with each further one,
# up to five minutes. What waits holds no slot of a worker.
# paigeant_retry_backoff = 1.0

# How long a worker that stops answering keeps the hops that it runs; renewed four times in that time. With less than
# 5 s, an outage of the store of 2.5 s may already look like the end of all workers.
# paigeant_lease = 10.0

# How long steps go on after a worker is told to end (SIGTERM). They are then given back, and another worker begins them
# again; no attempt is spent. Less than what your service manager waits before it kills: 30 s in Kubernetes, 10 s in
# Docker, 90 s in systemd.
# paigeant_shutdown_grace = 25.0

# How long the record of an ended workflow is kept (7 days).
# paigeant_result_ttl = 604800.0

# How old the message of a workflow may be that the store does not know (3 days). A younger one is adopted, as it
# carries all that it takes to go on; an older one may have run before. Never longer than `paigeant_result_ttl`, for
# which the store knows what has ended.
# paigeant_max_message_age = 259200.0

# The largest envelope that is sent or accepted (1 MiB).
# paigeant_max_message_size = 1048576

# The largest output that travels inside the message; a larger one is stored once and travels as a reference.
# paigeant_inline_output_size = 32768

# The largest output of a step; a larger one fails the step with `output_too_large` (16 MiB).
# paigeant_max_output_size = 16777216

# The most steps of a workflow, inserted ones included.
# paigeant_max_steps = 256

# How often one activity may stand in a workflow once agents insert it.
# paigeant_max_visits = 16

# Start although the Redis of the store may evict records when it is full (`maxmemory-policy`). Records that
# are evicted are workflows that never end.
# paigeant_allow_eviction = False
