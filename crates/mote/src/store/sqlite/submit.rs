//! Submission: a task becomes durable, or is found to be a replay.
//!
//! It does not bound or check what the task asks for; the runner does.

use rusqlite::{OptionalExtension, params};

use super::commit::{self, Prepared};
use super::row::sql;
use super::session;
use super::writer::{Fault, Outcome, Tx};
use crate::limits::QUEUED_TASKS_MAX;
use crate::store::{Commit, CommitError, Error, IdempotencyKey, Lease, NewTask, Status, Submitted};

/// A submission with everything encoded that the writer need not encode.
pub(super) struct Submission {
    task: NewTask,
    labels: String,
    first: Option<(Commit, Prepared)>,
}

impl Submission {
    /// Encodes.
    pub(super) fn new(mut task: NewTask) -> Result<Self, Error> {
        let labels = super::encode("submit a task", &task.owner.labels)?;
        let first = match task.first.take() {
            Some(batch) => {
                let commit = Commit { task: task.id.clone(), epoch: 1, expected_seq: 0, now: task.now, batch };
                let prepared = Prepared::new(&commit.batch)?;
                Some((commit, prepared))
            }
            None => None,
        };
        Ok(Self { task, labels, first })
    }

    /// Applies.
    pub(super) fn apply(&self, tx: &mut Tx<'_>) -> Outcome<Submitted> {
        if let Some(key) = &self.task.idempotency {
            if let Some(task) = replayed(tx, &self.task, key)? {
                return Ok(Submitted::Replayed { task });
            }
            let sql_text = "INSERT OR REPLACE INTO idempotency (tenant, route, key, fingerprint, task, expires_at)
                            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            tx.connection.prepare_cached(sql_text)?.execute(params![
                self.task.owner.tenant,
                key.route,
                key.key,
                key.fingerprint,
                self.task.id,
                sql(key.expires_at)
            ])?;
        }
        if let (Some(within), Some(session)) = (self.task.turn_within, &self.task.owner.session) {
            session::admit(tx, &self.task.owner.tenant, session, within)?;
        }
        let free = match &self.task.owner.session {
            Some(session) => session::enter(tx, &self.task, session)?,
            None => true,
        };
        let claim = self.task.claim.as_ref().filter(|_| free);
        if claim.is_none() {
            let queued = tx.queued()?;
            if queued >= sql(QUEUED_TASKS_MAX) {
                return Err(Error::Overloaded { queued: usize::try_from(queued).unwrap_or(usize::MAX) }.into());
            }
        }
        self.insert(tx, claim, free)?;
        if claim.is_some()
            && let Some((commit, prepared)) = &self.first
        {
            commit::apply(tx, commit, prepared).map_err(first_refused)?;
        }
        tx.changed(&self.task.id);
        Ok(Submitted::Created { epoch: claim.map(|_| 1) })
    }

    fn insert(&self, tx: &mut Tx<'_>, claim: Option<&Lease>, free: bool) -> Outcome<()> {
        let task = &self.task;
        let status = if claim.is_some() { Status::Running } else { Status::Queued };
        // A task behind another one of its session is not due until that one is done.
        let due_at = match claim {
            Some(lease) => Some(sql(lease.until)),
            None => free.then(|| sql(task.now)),
        };
        let claimed = i64::from(claim.is_some());
        let inserted = tx
            .connection
            .prepare_cached(
                "INSERT INTO tasks (id, tenant, user, session, labels, status, due_at, worker, epoch, seq, claims,
                   request, created_at, started_at, updated_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?9, ?10, ?11, ?12, ?11, ?13)",
            )?
            .execute(params![
                task.id,
                task.owner.tenant,
                task.owner.user,
                task.owner.session,
                self.labels,
                status.as_str(),
                due_at,
                claim.map(|lease| &lease.worker),
                claimed,
                task.request,
                sql(task.now),
                claim.map(|_| sql(task.now)),
                task.expires_at.map(sql),
            ]);
        if let Err(error) = inserted {
            let exists = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
            return Err(match exists {
                true => Error::Conflict { what: format!("task {} exists already", task.id) }.into(),
                false => error.into(),
            });
        }
        tx.moved(None, Some(status));
        if claim.is_none() && free {
            tx.work();
        }
        Ok(())
    }
}

fn first_refused(fault: Fault<CommitError>) -> Fault<Error> {
    match fault {
        Fault::Sqlite(error) => Fault::Sqlite(error),
        Fault::Refused(CommitError::Store(error)) => Fault::Refused(error),
        Fault::Refused(CommitError::Budget { scope, .. }) => Fault::Refused(Error::Budget { scope }),
        Fault::Refused(other) => Fault::Refused(Error::Conflict { what: other.to_string() }),
    }
}

/// The task that the key stands for, if it is still remembered and its task still there.
fn replayed(tx: &Tx<'_>, task: &NewTask, key: &IdempotencyKey) -> Outcome<Option<String>> {
    let mut query = tx.connection.prepare_cached(
        "SELECT fingerprint, task FROM idempotency
         WHERE tenant = ?1 AND route = ?2 AND key = ?3 AND expires_at > ?4
           AND EXISTS (SELECT 1 FROM tasks WHERE id = idempotency.task)",
    )?;
    let found = query
        .query_row(params![task.owner.tenant, key.route, key.key, sql(task.now)], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?))
        })
        .optional()?;
    match found {
        None => Ok(None),
        Some((fingerprint, task)) if fingerprint == key.fingerprint => Ok(Some(task)),
        Some(_) => Err(Error::KeyReused.into()),
    }
}
