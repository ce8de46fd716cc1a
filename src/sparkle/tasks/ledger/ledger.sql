-- Every statement of the ledger, by name. {{...}} differs between SQLite and PostgreSQL: see statements.py.
-- The conditions of partial indexes stand here word for word as in schema.py, otherwise SQLite would not use them.

-- name: pending_heads
-- By queue and priority: when the first waiting task is due. Skips from queue to queue, so that a backlog of a
-- million costs no more than one of ten. LIMIT and not MIN: PostgreSQL reads all rows for a MIN while its statistics
-- still say that there are few.
WITH RECURSIVE queues(queue) AS (
    SELECT (
        SELECT t.queue FROM sparkle_task t
        WHERE t.mode = 'long' AND t.state IN ('waiting', 'retrying') ORDER BY t.queue LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT t.queue FROM sparkle_task t
        WHERE t.mode = 'long' AND t.state IN ('waiting', 'retrying') AND t.queue > queues.queue
        ORDER BY t.queue LIMIT 1
    ) FROM queues WHERE queues.queue IS NOT NULL
),
priorities(priority) AS (VALUES (9), (8), (7), (6), (5), (4), (3), (2), (1), (0)),
heads AS (
    SELECT q.queue AS queue, p.priority AS priority, (
        SELECT t.due_at FROM sparkle_task t
        WHERE t.mode = 'long' AND t.state IN ('waiting', 'retrying') AND t.queue = q.queue AND t.priority = p.priority
        ORDER BY t.due_at LIMIT 1
    ) AS due_at
    FROM queues q CROSS JOIN priorities p WHERE q.queue IS NOT NULL
)
SELECT queue, priority, due_at FROM heads WHERE due_at IS NOT NULL ORDER BY priority DESC, due_at

-- name: queued
SELECT queue, COUNT(*), MIN(queued_at) FROM sparkle_task WHERE state = 'queued' GROUP BY queue

-- name: hand_over
UPDATE sparkle_task SET state = 'queued', queued_at = :now WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE mode = 'long' AND state IN ('waiting', 'retrying') AND queue = :queue AND priority = :priority
        AND due_at <= :now
    ORDER BY due_at LIMIT :room {{skip}}
) RETURNING id, name, queue, priority, fence, due_at, crashes

-- name: due_only
-- Read before anything is locked: where only some names are wanted, many others may have to be passed over.
SELECT id FROM sparkle_task
WHERE mode = 'long' AND state IN ('waiting', 'retrying') AND queue = :queue AND priority = :priority
    AND due_at <= :now AND name IN {{names}}
ORDER BY due_at LIMIT :room

-- name: due_except
SELECT id FROM sparkle_task
WHERE mode = 'long' AND state IN ('waiting', 'retrying') AND queue = :queue AND priority = :priority
    AND due_at <= :now AND name NOT IN {{names}}
ORDER BY due_at LIMIT :room

-- name: hand_over_ids
UPDATE sparkle_task SET state = 'queued', queued_at = :now WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE id IN {{ids}} AND mode = 'long' AND {{no_index}}state IN ('waiting', 'retrying') AND due_at <= :now
    {{by_id}} {{skip}}
) RETURNING id, name, queue, priority, fence, due_at, crashes

-- name: queued_names
SELECT queue, name, COUNT(*), MIN(queued_at) FROM sparkle_task WHERE state = 'queued' GROUP BY queue, name

-- name: paces
SELECT name, milliseconds FROM sparkle_pace

-- name: all_paces
SELECT name, milliseconds, runs FROM sparkle_pace ORDER BY name

-- name: dead_letters
SELECT name, COUNT(*) FROM sparkle_task
WHERE state = 'failed' AND finished_at IS NOT NULL AND mode = 'long' GROUP BY name ORDER BY name

-- name: take_back_queue
UPDATE sparkle_task SET state = 'waiting', queued_at = NULL
WHERE id IN (
    SELECT id FROM sparkle_task WHERE state = 'queued' AND queue = :queue AND queued_at < :before {{by_id}} {{skip}}
)

-- name: take_back_only
UPDATE sparkle_task SET state = 'waiting', queued_at = NULL
WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE state = 'queued' AND queue = :queue AND queued_at < :before AND name IN {{names}} {{by_id}} {{skip}}
)

-- name: take_back_except
UPDATE sparkle_task SET state = 'waiting', queued_at = NULL
WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE state = 'queued' AND queue = :queue AND queued_at < :before AND name NOT IN {{names}} {{by_id}} {{skip}}
)

-- name: take_back_all
UPDATE sparkle_task SET state = 'waiting', queued_at = NULL
WHERE id IN (SELECT id FROM sparkle_task WHERE state = 'queued' AND queued_at < :before {{by_id}} {{skip}})

-- name: take_back_ids
UPDATE sparkle_task SET state = 'waiting', queued_at = NULL
WHERE id IN {{ids}} AND {{no_index}}state = 'queued' AND queued_at < :before

-- name: claim
UPDATE sparkle_task SET state = 'running', fence = fence + 1, attempt = attempt + 1, started_at = :now,
    lease_owner = :owner, lease_until = :until, progress = 0, progress_note = ''
WHERE id IN (
    SELECT id FROM sparkle_task WHERE id IN {{ids}} AND {{no_index}}state = 'queued' ORDER BY id {{skip}}
) RETURNING {{columns}}

-- name: heartbeat
UPDATE sparkle_task SET lease_until = :until
WHERE id IN {{ids}} AND {{no_index}}state = 'running' AND lease_owner = :owner
RETURNING id, fence, cancel_requested

-- name: complete
UPDATE sparkle_task SET state = 'succeeded', result = :result, finished_at = :now, lease_until = NULL, progress = 1,
    cancel_requested = {{false}}
WHERE id = :id AND fence = :fence AND {{no_index}}state = 'running'

-- name: complete_many
UPDATE sparkle_task SET state = 'succeeded', result = v.c2, finished_at = :now, lease_until = NULL, progress = 1,
    cancel_requested = {{false}}
FROM {{rows_of_3}} AS v
WHERE sparkle_task.id = v.c0 {{among_rows}} AND sparkle_task.fence = {{int:v.c1}} AND {{no_index}}sparkle_task.state = 'running'
RETURNING sparkle_task.id

-- name: fail_many
UPDATE sparkle_task SET
    state = CASE WHEN cancel_requested THEN 'cancelled' WHEN v.c4 IS NULL THEN 'failed' ELSE 'retrying' END,
    error_type = v.c2, error_message = v.c3, queued_at = NULL, lease_until = NULL,
    due_at = COALESCE({{bigint:v.c4}}, due_at),
    finished_at = CASE WHEN cancel_requested OR v.c4 IS NULL THEN {{bigint::now}} END
FROM {{rows_of_5}} AS v
WHERE sparkle_task.id = v.c0 {{among_rows}} AND sparkle_task.fence = {{int:v.c1}} AND {{no_index}}sparkle_task.state = 'running'
RETURNING sparkle_task.id, sparkle_task.state

-- name: release
UPDATE sparkle_task SET
    state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'waiting' END,
    attempt = attempt - CASE WHEN cancel_requested THEN 0 ELSE 1 END, queued_at = NULL, lease_owner = NULL, lease_until = NULL,
    progress = 0, progress_note = '', due_at = COALESCE({{bigint::due_at}}, due_at),
    finished_at = CASE WHEN cancel_requested THEN {{bigint::now}} END
FROM {{rows_of_2}} AS v
WHERE sparkle_task.id = v.c0 {{among_rows}} AND sparkle_task.fence = {{int:v.c1}} AND {{no_index}}sparkle_task.state = 'running'
RETURNING sparkle_task.id

-- name: cancelled
UPDATE sparkle_task SET state = 'cancelled', finished_at = :now, lease_until = NULL, cancel_requested = {{true}}
WHERE id = :id AND fence = :fence AND {{no_index}}state = 'running'

-- name: progress
UPDATE sparkle_task SET progress = {{double:v.c2}}, progress_note = COALESCE(v.c3, progress_note)
FROM {{rows_of_4}} AS v
WHERE sparkle_task.id = v.c0 {{among_rows}} AND sparkle_task.fence = {{int:v.c1}} AND {{no_index}}sparkle_task.state = 'running'

-- name: lock_rows
-- PostgreSQL only: two statements that change the same rows take their locks in one order.
SELECT id FROM sparkle_task WHERE id IN {{ids}} ORDER BY id {{lock}}

-- name: expire
UPDATE sparkle_task SET
    state = CASE WHEN cancel_requested THEN 'cancelled' WHEN crashes + 1 >= :max_crashes THEN 'failed'
        ELSE 'waiting' END,
    attempt = CASE WHEN cancel_requested OR crashes + 1 >= :max_crashes THEN attempt ELSE attempt - 1 END,
    error_type = CASE WHEN cancel_requested THEN error_type ELSE 'WorkerCrashed' END,
    error_message = CASE WHEN cancel_requested THEN error_message
        ELSE 'the worker that ran it died or was cut off' END,
    finished_at = CASE WHEN cancel_requested OR crashes + 1 >= :max_crashes THEN {{bigint::now}} END,
    crashes = crashes + 1, queued_at = NULL, lease_owner = NULL, lease_until = NULL, progress = 0, progress_note = ''
WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE mode = 'long' AND state = 'running' AND (lease_until < :now OR lease_owner = :owner)
    LIMIT :batch {{skip}}
) RETURNING id

-- name: anything_expired
SELECT 1 FROM sparkle_task
WHERE mode = 'long' AND state = 'running' AND (lease_until < :now OR lease_owner = :owner) LIMIT 1

-- name: interrupt_short
UPDATE sparkle_task SET state = 'interrupted', finished_at = :now, error_type = 'ProcessDied',
    error_message = 'the process that ran it is gone'
WHERE id IN (
    SELECT id FROM sparkle_task
    WHERE mode = 'short' AND state IN ('waiting', 'queued', 'running', 'retrying')
        AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM sparkle_owner WHERE alive_until >= :now))
    LIMIT :batch {{skip}}
) RETURNING id

-- name: anything_orphaned
SELECT 1 FROM sparkle_task
WHERE mode = 'short' AND state IN ('waiting', 'queued', 'running', 'retrying')
    AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM sparkle_owner WHERE alive_until >= :now)) LIMIT 1

-- name: cancel_waiting
UPDATE sparkle_task SET state = 'cancelled', finished_at = :now, queued_at = NULL, cancel_requested = {{true}}
WHERE id = :id AND mode = 'long' AND {{no_index}}state IN ('waiting', 'queued', 'retrying') RETURNING {{columns}}

-- name: cancel_running
UPDATE sparkle_task SET cancel_requested = {{true}}
WHERE id = :id AND (
    mode = 'long' AND {{no_index}}state = 'running'
    OR mode = 'short' AND {{no_index}}state IN ('waiting', 'running', 'retrying')
) RETURNING {{columns}}

-- name: cancel_requests
SELECT id FROM sparkle_task
WHERE mode = 'short' AND state IN ('waiting', 'queued', 'running', 'retrying') AND lease_owner = :owner
    AND cancel_requested

-- name: replay
UPDATE sparkle_task SET state = 'waiting', attempt = 0, crashes = 0, due_at = :now, queued_at = NULL,
    started_at = NULL, finished_at = NULL, lease_owner = NULL, lease_until = NULL, progress = 0, progress_note = '',
    cancel_requested = {{false}}
WHERE id = :id AND mode = 'long' AND {{no_index}}state IN ('failed', 'cancelled') RETURNING {{columns}}

-- name: retry
UPDATE sparkle_task SET state = 'waiting', due_at = CASE WHEN due_at > :now THEN {{bigint::now}} ELSE due_at END
WHERE id = :id AND mode = 'long' AND {{no_index}}state IN ('waiting', 'retrying') RETURNING {{columns}}

-- name: get
SELECT {{columns}} FROM sparkle_task WHERE id = :id

-- name: get_many
SELECT {{columns}} FROM sparkle_task WHERE id IN {{ids}}

-- name: by_idempotency_key
SELECT {{columns}} FROM sparkle_task WHERE user_id = :user_id AND idempotency_key = :idempotency_key

-- name: by_unique_key
SELECT {{columns}} FROM sparkle_task
WHERE unique_key = :unique_key AND state IN ('waiting', 'queued', 'running', 'retrying')

-- name: by_schedule
SELECT {{columns}} FROM sparkle_task WHERE schedule = :schedule

-- name: withdraw
DELETE FROM sparkle_task WHERE id IN {{ids}}

-- name: present_ids
SELECT id FROM sparkle_task WHERE id IN {{ids}}

-- name: count_pending
SELECT state, queue, name, COUNT(*) FROM sparkle_task
WHERE mode = 'long' AND state IN ('waiting', 'retrying') GROUP BY state, queue, name

-- name: count_queued
SELECT 'queued', queue, name, COUNT(*) FROM sparkle_task WHERE state = 'queued' GROUP BY queue, name

-- name: count_running
SELECT 'running', queue, name, COUNT(*) FROM sparkle_task
WHERE mode = 'long' AND state = 'running' GROUP BY queue, name

-- name: count_short
SELECT state, queue, name, COUNT(*) FROM sparkle_task
WHERE mode = 'short' AND state IN ('waiting', 'queued', 'running', 'retrying') GROUP BY state, queue, name

-- name: count_finished
SELECT mode, state, queue, name, COUNT(*) FROM sparkle_task
WHERE finished_at IS NOT NULL GROUP BY state, mode, queue, name

-- name: announce
INSERT INTO sparkle_owner (id, kind, started_at, seen_at, alive_until, info)
VALUES (:id, :kind, :now, :now, :until, :info)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, alive_until = excluded.alive_until, info = excluded.info

-- name: leave
DELETE FROM sparkle_owner WHERE id = :id

-- name: mourn
UPDATE sparkle_owner SET alive_until = {{bigint::now}} - 1 WHERE id = :owner AND alive_until >= :now

-- name: relinquish_all
DELETE FROM sparkle_role WHERE owner = :owner

-- name: owners
SELECT id, kind, started_at, seen_at, alive_until, info FROM sparkle_owner ORDER BY kind, started_at, id

-- name: forget_owners
DELETE FROM sparkle_owner WHERE alive_until < :before

-- name: acquire
INSERT INTO sparkle_role (name, owner, until) VALUES (:role, :owner, :until)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE sparkle_role.owner = excluded.owner OR sparkle_role.until < :now
RETURNING owner

-- name: relinquish
DELETE FROM sparkle_role WHERE name = :role AND owner = :owner

-- name: learn
INSERT INTO sparkle_pace (name, milliseconds, runs) VALUES (:name, :milliseconds, :runs)
ON CONFLICT (name) DO UPDATE SET runs = sparkle_pace.runs + excluded.runs,
    milliseconds = sparkle_pace.milliseconds
        + (excluded.milliseconds - sparkle_pace.milliseconds) * {{double::weight}}

-- name: purge
DELETE FROM sparkle_task WHERE id IN (
    SELECT id FROM sparkle_task WHERE state = :state AND finished_at IS NOT NULL AND finished_at < :before
    ORDER BY finished_at LIMIT :batch {{skip}}
)

-- name: ledger_id
SELECT id FROM sparkle_ledger
