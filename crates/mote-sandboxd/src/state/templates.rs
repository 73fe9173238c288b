//! Templates, their builds and the logs of these.

use mote_sandbox_api::error::Failure;
use rusqlite::{OptionalExtension as _, params};

use super::{Pending, State, signed};
use crate::template::log::Entry;
use crate::template::record::{Build, Template};

impl State {
    /// Keeps a template.
    pub fn put_template(&self, template: &Template) -> Pending<()> {
        let (id, text) = (template.id.clone(), serde_json::to_string(template));
        self.writer.submit("keep a template", move |connection| {
            let text = text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            connection
                .prepare_cached(
                    "INSERT INTO templates (id, record) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
                )?
                .execute(params![id, text])
                .map(drop)
        })
    }

    /// Keeps a build.
    pub fn put_build(&self, build: &Build) -> Pending<()> {
        let (id, template, created) = (build.id.clone(), build.template.clone(), signed(build.created_ms));
        let text = serde_json::to_string(build);
        self.writer.submit("keep a build", move |connection| {
            let text = text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            connection
                .prepare_cached(
                    "INSERT INTO builds (id, template, created_ms, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE SET record = ?4",
                )?
                .execute(params![id, template, created, text])
                .map(drop)
        })
    }

    /// Keeps the log of a build that ended.
    pub fn put_build_log(&self, build: &str, entries: &[Entry]) -> Pending<()> {
        let (id, text) = (build.to_owned(), serde_json::to_string(entries));
        self.writer.submit("keep the log of a build", move |connection| {
            let text = text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            connection.prepare_cached("UPDATE builds SET log = ?2 WHERE id = ?1")?.execute(params![id, text]).map(drop)
        })
    }

    /// The log of a build that ended; empty where it has none.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn build_log(&self, build: &str) -> Result<Vec<Entry>, Failure> {
        let id = build.to_owned();
        let read = self.writer.submit("read the log of a build", move |connection| {
            connection
                .prepare_cached("SELECT log FROM builds WHERE id = ?1")?
                .query_row([id], |row| row.get::<_, String>(0))
                .optional()
        });
        let text = read.await?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Forgets a template with its builds.
    pub fn remove_template(&self, template: &str) -> Pending<()> {
        let id = template.to_owned();
        self.writer.submit("forget a template", move |connection| {
            let forgetting = connection.transaction()?;
            forgetting.execute("DELETE FROM builds WHERE template = ?1", [&id])?;
            forgetting.execute("DELETE FROM templates WHERE id = ?1", [&id])?;
            forgetting.commit()
        })
    }

    /// Forgets a build.
    pub fn remove_build(&self, build: &str) -> Pending<()> {
        let id = build.to_owned();
        self.writer.submit("forget a build", move |connection| {
            connection.prepare_cached("DELETE FROM builds WHERE id = ?1")?.execute([id]).map(drop)
        })
    }

    /// Every template and every build.
    ///
    /// # Errors
    /// `internal`.
    pub async fn templates(&self) -> Result<(Vec<Template>, Vec<Build>), Failure> {
        let templates = self.records("read the templates", "SELECT record FROM templates ORDER BY id").await?;
        let builds = self.records("read the builds", "SELECT record FROM builds ORDER BY created_ms, id").await?;
        Ok((templates, builds))
    }
}
