//! Budgets that several runs share: reserved before the spending, settled after it, inside the commit.
//!
//! A run's own budget is the core's; it is not kept here.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::row::{Standing, native, sql};
use super::writer::{Fault, Outcome, Tx};
use crate::model::Usage;
use crate::store::{Amount, BudgetLine, BudgetOp, CommitError, Error};

/// A task's open reservation, as its row keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    amount: Amount,
    lines: Vec<BudgetLine>,
}

/// Applies operations in order; gives the reservation that is then open.
pub(super) fn apply(
    tx: &Tx<'_>,
    task: &str,
    standing: &Standing,
    operations: &[BudgetOp],
    now: u64,
) -> Outcome<Option<Reservation>, CommitError> {
    let mut open = standing.reservation.as_deref().map(decode).transpose()?;
    for operation in operations {
        match operation {
            BudgetOp::Reserve { lines, amount } => {
                if open.is_some() {
                    let what = format!("task {task} has an open reservation");
                    return Err(CommitError::from(Error::Conflict { what }).into());
                }
                for line in lines {
                    reserve(tx, line, *amount, now)?;
                }
                open = Some(Reservation { amount: *amount, lines: lines.clone() });
            }
            BudgetOp::Settle { spent, model, usage, step } => {
                let reservation = open.take();
                let reserved = reservation.as_ref().map(|reservation| reservation.amount).unwrap_or_default();
                if let Some(reservation) = reservation {
                    book(tx, &reservation, *spent, now)?;
                }
                let entry = LedgerEntry { step: *step, model, usage: *usage, spent: *spent, reserved };
                write_ledger(tx, task, standing, &entry, now)?;
            }
        }
    }
    Ok(open)
}

/// Gives an open reservation back unspent.
pub(super) fn release(tx: &Tx<'_>, reservation: &Reservation, now: u64) -> Outcome<()> {
    book(tx, reservation, Amount::default(), now)
}

/// Books the open reservation of a task that is given up as spent: nobody knows how much of it was.
pub(super) fn forfeit(tx: &Tx<'_>, task: &str, standing: &Standing, now: u64) -> Outcome<()> {
    let Some(text) = standing.reservation.as_deref() else { return Ok(()) };
    let reservation = decode(text)?;
    let amount = reservation.amount;
    book(tx, &reservation, amount, now)?;
    if amount == Amount::default() {
        return Ok(());
    }
    let entry = LedgerEntry { step: 0, model: "unknown", usage: Usage::default(), spent: amount, reserved: amount };
    write_ledger(tx, task, standing, &entry, now)
}

/// Gives back what the row of a removed task still holds.
pub(super) fn release_text(tx: &Tx<'_>, text: &str, now: u64) -> Outcome<()> {
    release(tx, &decode(text)?, now)
}

fn decode(text: &str) -> Outcome<Reservation> {
    serde_json::from_str(text).map_err(|error| {
        Fault::Refused(Error::Backend { operation: "read an open reservation", detail: error.to_string() })
    })
}

/// What a budget has spent and reserved.
pub(super) fn taken(connection: &Connection, line: &BudgetLine) -> Outcome<Amount> {
    let mut query = connection.prepare_cached(
        "SELECT spent_tokens + reserved_tokens, spent_nano_usd + reserved_nano_usd FROM budgets
         WHERE scope = ?1 AND window_start = ?2",
    )?;
    let taken = query.query_row(params![line.scope, sql(line.window_start)], |row| Ok((row.get(0)?, row.get(1)?)));
    let (tokens, nano_usd) = taken.optional()?.unwrap_or_default();
    Ok(Amount { tokens: native(tokens), nano_usd: native(nano_usd) })
}

fn reserve(tx: &Tx<'_>, line: &BudgetLine, amount: Amount, now: u64) -> Outcome<(), CommitError> {
    let mut query = tx.connection.prepare_cached(
        "SELECT spent_tokens + reserved_tokens, spent_nano_usd + reserved_nano_usd FROM budgets
         WHERE scope = ?1 AND window_start = ?2",
    )?;
    let mut taken = |scope: &str| {
        query.query_row(params![scope, sql(line.window_start)], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    // A line that is not there yet begins with what was taken under its earlier name, open reservations counted as spent.
    let (begun, inherited): (Option<(i64, i64)>, (i64, i64)) = match (taken(&line.scope)?, &line.formerly) {
        (None, Some(formerly)) => (None, taken(formerly)?.unwrap_or_default()),
        (begun, _) => (begun, (0, 0)),
    };
    let (tokens, nano_usd) = begun.unwrap_or(inherited);
    let exceeds =
        |taken: i64, more: u64, max: Option<u64>| max.is_some_and(|max| native(taken).saturating_add(more) > max);
    if exceeds(tokens, amount.tokens, line.tokens_max) || exceeds(nano_usd, amount.nano_usd, line.nano_usd_max) {
        return Err(CommitError::Budget { scope: line.scope.clone() }.into());
    }
    tx.connection
        .prepare_cached(
            "INSERT INTO budgets (scope, window_start, spent_tokens, spent_nano_usd, reserved_tokens,
               reserved_nano_usd, updated_at) VALUES (?1, ?2, ?6, ?7, ?3, ?4, ?5)
             ON CONFLICT (scope, window_start) DO UPDATE SET reserved_tokens = reserved_tokens + ?3,
               reserved_nano_usd = reserved_nano_usd + ?4, updated_at = ?5",
        )?
        .execute(params![
            line.scope,
            sql(line.window_start),
            sql(amount.tokens),
            sql(amount.nano_usd),
            sql(now),
            inherited.0,
            inherited.1,
        ])?;
    Ok(())
}

fn book(tx: &Tx<'_>, reservation: &Reservation, spent: Amount, now: u64) -> Outcome<()> {
    let mut update = tx.connection.prepare_cached(
        "UPDATE budgets SET reserved_tokens = max(0, reserved_tokens - ?3),
           reserved_nano_usd = max(0, reserved_nano_usd - ?4), spent_tokens = spent_tokens + ?5,
           spent_nano_usd = spent_nano_usd + ?6, updated_at = max(updated_at, ?7)
         WHERE scope = ?1 AND window_start = ?2",
    )?;
    for line in &reservation.lines {
        update.execute(params![
            line.scope,
            sql(line.window_start),
            sql(reservation.amount.tokens),
            sql(reservation.amount.nano_usd),
            sql(spent.tokens),
            sql(spent.nano_usd),
            sql(now),
        ])?;
    }
    Ok(())
}

struct LedgerEntry<'a> {
    step: u32,
    model: &'a str,
    usage: Usage,
    spent: Amount,
    reserved: Amount,
}

fn write_ledger(tx: &Tx<'_>, task: &str, standing: &Standing, entry: &LedgerEntry<'_>, now: u64) -> Outcome<()> {
    tx.connection
        .prepare_cached(
            "INSERT INTO ledger (task, step, tenant, user, session, labels, model, tokens_input, tokens_cache_read,
               tokens_cache_write, tokens_output, tokens_reasoning, nano_usd, reserved_tokens, reserved_nano_usd, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            task,
            entry.step,
            standing.owner.tenant,
            standing.owner.user,
            standing.owner.session,
            standing.labels,
            entry.model,
            sql(entry.usage.input),
            sql(entry.usage.cache_read),
            sql(entry.usage.cache_write),
            sql(entry.usage.output),
            sql(entry.usage.reasoning),
            sql(entry.spent.nano_usd),
            sql(entry.reserved.tokens),
            sql(entry.reserved.nano_usd),
            sql(now),
        ])?;
    Ok(())
}
