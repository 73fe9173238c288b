//! Budgets that several runs share: reserved before the spending, settled after it, inside the commit.
//!
//! A run's own budget is the core's; it is not kept here.

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use serde::{Deserialize, Serialize};

use super::row::{Standing, native, sql};
use super::writer::{Fault, Outcome, Tx};
use crate::store::{Account, Amount, BudgetLine, BudgetOp, CommitError, Error, Spender, Spending};
use crate::usage::Usage;

/// An open reservation, as the task's row keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    spender: Spender,
    amount: Amount,
    /// Of its tokens, those for the reply.
    #[serde(default)]
    output: u64,
    lines: Vec<BudgetLine>,
}

/// Applies operations in order; gives the reservations that are then open.
pub(super) fn apply(
    tx: &Tx<'_>,
    task: &str,
    standing: &Standing,
    operations: &[BudgetOp],
    now: u64,
) -> Outcome<Vec<Reservation>, CommitError> {
    let mut open = standing.reservation.as_deref().map(decode).transpose()?.unwrap_or_default();
    let mut forfeited = standing.forfeited;
    for operation in operations {
        match operation {
            BudgetOp::Reserve { spender, lines, amount, output } => {
                if open.iter().any(|open: &Reservation| open.spender == *spender) {
                    let what = format!("task {task} has an open reservation of {spender:?}");
                    return Err(CommitError::from(Error::Conflict { what }).into());
                }
                for line in lines {
                    reserve(tx, line, *spender, *amount, now)?;
                }
                let (spender, amount, output, lines) = (*spender, *amount, *output, lines.clone());
                open.push(Reservation { spender, amount, output, lines });
            }
            // What was under way when the task became a dead letter: booked then.
            BudgetOp::Settle(spending) if forfeited > 0 && spending.uncertain => {
                let sql_text = "UPDATE tasks SET forfeited = forfeited - 1 WHERE n = ?1";
                tx.connection.prepare_cached(sql_text)?.execute([standing.n])?;
                forfeited -= 1;
            }
            BudgetOp::Settle(spending) => {
                let place = open.iter().position(|open| open.spender == spending.spender);
                let reservation = place.map(|place| open.remove(place));
                settle(tx, task, standing, reservation.as_ref(), spending, now)?;
            }
        }
    }
    Ok(open)
}

/// Books what a call cost, or is taken to have cost: on the lines of its reservation, in the ledger, on the task and on its
/// session. The one place that does.
fn settle(
    tx: &Tx<'_>,
    task: &str,
    standing: &Standing,
    reservation: Option<&Reservation>,
    spending: &Spending,
    now: u64,
) -> Outcome<()> {
    let usage = &spending.usage;
    let spent = Amount { tokens: usage.input.saturating_add(usage.output), nano_usd: spending.nano_usd };
    let reserved = reservation.map(|reservation| reservation.amount).unwrap_or_default();
    if let Some(reservation) = reservation {
        book(tx, reservation, spent, now)?;
    }
    write_ledger(tx, task, standing, spending, reserved, now)?;
    let mut account = Account::default();
    account.book(spending);
    let (known, uncertain) = (account.usage, account.uncertain);
    let added = [
        known.input,
        known.cache_read,
        known.cache_write,
        known.output,
        known.reasoning,
        account.nano_usd,
        uncertain.input,
        uncertain.output,
        uncertain.nano_usd,
    ]
    .map(sql);
    let [input, cache_read, cache_write, output, reasoning, nano_usd, lost_input, lost_output, lost_nano_usd] = added;
    let add = "tokens_input = tokens_input + ?3, tokens_cache_read = tokens_cache_read + ?4,
        tokens_cache_write = tokens_cache_write + ?5, tokens_output = tokens_output + ?6,
        tokens_reasoning = tokens_reasoning + ?7, cost_nano_usd = cost_nano_usd + ?8,
        uncertain_input = uncertain_input + ?9, uncertain_output = uncertain_output + ?10,
        uncertain_nano_usd = uncertain_nano_usd + ?11, updated_at = max(updated_at, ?12)";
    let run = |sql_text: &str, first: &dyn ToSql, second: &dyn ToSql| {
        let values = params![
            first,
            second,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
            nano_usd,
            lost_input,
            lost_output,
            lost_nano_usd,
            sql(now)
        ];
        tx.connection.prepare_cached(sql_text)?.execute(values)
    };
    run(&format!("UPDATE tasks SET {add} WHERE n = ?1 AND ?2 = ?2"), &standing.n, &0)?;
    if let Some(session) = &standing.owner.session {
        let sql_text = format!("UPDATE sessions SET {add} WHERE tenant = ?1 AND id = ?2");
        run(&sql_text, &standing.owner.tenant, session)?;
    }
    Ok(())
}

/// Gives an open reservation back unspent.
pub(super) fn release(tx: &Tx<'_>, reservation: &Reservation, now: u64) -> Outcome<()> {
    book(tx, reservation, Amount::default(), now)
}

/// Books the open reservations of a task that is given up: nobody knows how much of them was spent.
pub(super) fn forfeit(tx: &Tx<'_>, task: &str, standing: &Standing, now: u64) -> Outcome<()> {
    let Some(text) = standing.reservation.as_deref() else { return Ok(()) };
    let open = decode(text)?;
    for reservation in &open {
        let (spender, Amount { tokens, nano_usd }) = (reservation.spender, reservation.amount);
        let output = reservation.output.min(tokens);
        let usage = Usage { input: tokens - output, output, ..Usage::default() };
        let spending = Spending { spender, step: 0, model: "unknown".to_owned(), usage, nano_usd, uncertain: true };
        settle(tx, task, standing, Some(reservation), &spending, now)?;
    }
    let sql_text = "UPDATE tasks SET forfeited = ?2, reservation = NULL WHERE n = ?1";
    tx.connection.prepare_cached(sql_text)?.execute((standing.n, sql(open.len() as u64)))?;
    Ok(())
}

/// Gives back what the row of a removed task still holds.
pub(super) fn release_text(tx: &Tx<'_>, text: &str, now: u64) -> Outcome<()> {
    decode(text)?.iter().try_for_each(|reservation| release(tx, reservation, now))
}

fn decode(text: &str) -> Outcome<Vec<Reservation>> {
    serde_json::from_str(text).map_err(|error| {
        Fault::Refused(Error::Backend { operation: "read the open reservations", detail: error.to_string() })
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

fn reserve(tx: &Tx<'_>, line: &BudgetLine, spender: Spender, amount: Amount, now: u64) -> Outcome<(), CommitError> {
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
        return Err(CommitError::Budget { scope: line.scope.clone(), spender }.into());
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

fn write_ledger(
    tx: &Tx<'_>,
    task: &str,
    standing: &Standing,
    spending: &Spending,
    reserved: Amount,
    now: u64,
) -> Outcome<()> {
    let usage = &spending.usage;
    tx.connection
        .prepare_cached(
            "INSERT INTO ledger (task, step, tenant, user, session, labels, model, tokens_input, tokens_cache_read,
               tokens_cache_write, tokens_output, tokens_reasoning, nano_usd, reserved_tokens, reserved_nano_usd, at,
               uncertain, life)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            task,
            spending.step,
            standing.owner.tenant,
            standing.owner.user,
            standing.owner.session,
            standing.labels,
            spending.model,
            sql(usage.input),
            sql(usage.cache_read),
            sql(usage.cache_write),
            sql(usage.output),
            sql(usage.reasoning),
            sql(spending.nano_usd),
            sql(reserved.tokens),
            sql(reserved.nano_usd),
            sql(now),
            spending.uncertain,
            standing.requeues,
        ])?;
    Ok(())
}
