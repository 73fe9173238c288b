//! Code contexts with the packages that users of notebooks bring: pandas, matplotlib, plotly, Pillow, SymPy.
//!
//! They are installed beside the test's binaries, once, from PyPI (`xtask/requirements/sandbox-code.txt`), and lent to the sandbox
//! read-only. Charts are compared with those of E2B's own extractor, which is among them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use reqwest::Method;
use serde_json::{Value, json};
use system_tests::process::binary::{environment, scratch, workspace};

use crate::e2b::run;
use crate::fixture::Daemon;

/// Seconds that the installation may take.
const INSTALLATION_S: &str = "900";

/// A folder with the packages, for the interpreter of this version.
fn installed(version: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let named = environment("MOTE_TEST_CODE_PACKAGES").map(PathBuf::from);
            let folder = named.unwrap_or_else(|| scratch().unwrap().join(format!("code-packages-{version}")));
            let pinned = workspace().join("xtask/requirements/sandbox-code.txt");
            let wanted = std::fs::read_to_string(&pinned).unwrap();
            // Written last: an installation that was cut off is begun again.
            let done = folder.join("installed");
            if std::fs::read_to_string(&done).is_ok_and(|done| done == wanted) {
                return folder;
            }
            let _ = std::fs::remove_dir_all(&folder);
            let mut pip = Command::new("timeout");
            pip.args([INSTALLATION_S, "python3", "-m", "pip", "install", "--quiet", "--only-binary=:all:"]);
            pip.args(["--python-version", version, "--target"]).arg(&folder).arg("--requirement").arg(pinned);
            run(&mut pip);
            std::fs::write(done, wanted).unwrap();
            folder
        })
        .clone()
}

/// A sandbox with the packages in a daemon of its own.
async fn notebook() -> (Daemon, String) {
    let probe = Daemon::start().await;
    let id = probe.create(json!({})).await;
    let version = probe.run(&id, "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").await;
    drop(probe);
    let folder = tokio::task::spawn_blocking(move || installed(version.trim())).await.unwrap();
    let daemon = Daemon::configured(&format!("directories: [{}]", folder.display())).await;
    let data = json!([{ "source": folder, "path": "/packages" }]);
    let spec = json!({ "data": data, "env": { "PYTHONPATH": "/packages" }, "resources": { "memory": "2GiB" } });
    let id = daemon.create(spec).await;
    (daemon, id)
}

/// What a cell told: its results, and what it printed.
async fn cell(daemon: &Daemon, id: &str, code: &str) -> (Vec<Value>, String) {
    let request = daemon.request(Method::POST, &format!("/v1/sandboxes/{id}/code/execute"));
    let text = request.json(&json!({ "code": code })).send().await.unwrap().text().await.unwrap();
    let (mut results, mut printed) = (Vec::new(), String::new());
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        match message["type"].as_str().unwrap() {
            "result" => results.push(message),
            "stdout" => printed.push_str(message["text"].as_str().unwrap()),
            "error" => panic!("{code}: {message}"),
            _ => {}
        }
    }
    (results, printed)
}

/// The text of a result, and the formats beside it.
type Shown = (&'static str, &'static [&'static str]);

/// The kinds of formats of a result, beside its text.
fn formats(result: &Value) -> Vec<&str> {
    let names = result.as_object().unwrap().keys().map(String::as_str);
    names.filter(|name| !["type", "is_main_result", "text"].contains(name)).collect()
}

#[tokio::test]
async fn values_of_the_packages_are_shown_as_notebooks_show_them() {
    let (daemon, id) = notebook().await;
    // A cell, and for each of its results: the text, where it says anything, and the formats.
    let cases: [(&str, &[Shown]); 14] = [
        ("import pandas as pd\npd.DataFrame({'a': [1, 2]})", &[("   a\n0  1\n1  2", &["data", "html"])]),
        ("pd.Series([1], name='s')", &[("0    1\nName: s, dtype: int64", &[])]),
        ("[pd.Timestamp('2020-01-01')]", &[("[Timestamp('2020-01-01 00:00:00')]", &[])]),
        (
            "from IPython.display import display, HTML\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()",
            &[("<Figure size 640x480 with 1 Axes>", &["chart", "png"])],
        ),
        (
            "%matplotlib inline\nfor n in range(2):\n    plt.figure(); plt.plot([n])",
            &[
                ("<Figure size 640x480 with 1 Axes>", &["chart", "png"]),
                ("<Figure size 640x480 with 1 Axes>", &["chart", "png"]),
            ],
        ),
        (
            "%config InlineBackend.figure_format = 'svg'\nplt.plot([1]); plt.show()",
            &[("<Figure size 640x480 with 1 Axes>", &["chart", "svg"])],
        ),
        ("%config InlineBackend.figure_format = 'png'\nplt.plot([1]); plt.close()", &[]),
        (
            "import plotly.graph_objects as go\nfigure = go.Figure(go.Bar(x=['a'], y=[1]))\nfigure",
            &[("", &["extra", "html"])],
        ),
        ("figure.show()", &[("", &["extra", "html"])]),
        (
            "from PIL import Image\nimage = Image.new('RGB', (4, 4))\nimage",
            &[("<PIL.Image.Image image mode=RGB size=4x4>", &["jpeg", "png"])],
        ),
        ("image.show()", &[("<PIL.Image.Image image mode=RGB size=4x4>", &["jpeg", "png"])]),
        // As on E2B's server.
        ("image.save('saved.png')", &[("<PIL.Image.Image image mode=RGB size=4x4>", &["jpeg", "png"])]),
        ("import sympy\nx = sympy.Symbol('x')\nsympy.sqrt(8)", &[("2*sqrt(2)", &["latex"])]),
        ("sympy.init_printing()\n[x, x + 1]", &[("[x, x + 1]", &["latex"])]),
    ];
    for (code, expected) in cases {
        let (results, _) = cell(&daemon, &id, code).await;
        assert_eq!(results.len(), expected.len(), "{code}: {results:?}");
        for (result, (text, kinds)) in results.iter().zip(expected) {
            assert!(text.is_empty() || result["text"] == *text, "{code}: {}", result["text"]);
            assert_eq!(formats(result), *kinds, "{code}");
        }
    }
    let (frame, _) =
        cell(&daemon, &id, "pd.DataFrame({'n': [1, None], 'd': pd.to_datetime(['2020-01-01', '2020-01-02'])})").await;
    assert_eq!(frame[0]["data"], json!({ "n": [1.0, null], "d": ["2020-01-01T00:00:00", "2020-01-02T00:00:00"] }));
    let (shown, _) = cell(&daemon, &id, "figure").await;
    assert!(shown[0]["extra"]["application/vnd.plotly.v1+json"]["data"][0]["y"].is_array(), "{shown:?}");
}

/// Cells that draw, each a figure.
const CHARTS: [&str; 14] = [
    "plt.plot([0, 1, 2], [1, 4, 9], label='squares'); plt.plot([2, 1]); plt.xlabel('Time (s)'); plt.ylabel('Way [m]'); plt.title('T')",
    "plt.plot([1, 2, 3]); plt.axhline(2); plt.grid(True)",
    "plt.scatter([1, 2], [3, 4], label='A'); plt.scatter([1], [2])",
    "plt.bar(['a', 'b'], [1, 2]); plt.xlabel('X'); plt.ylabel('Y (m)')",
    "plt.barh(['a', 'b'], [1, 2]); plt.xlabel('X (kg)'); plt.ylabel('Y')",
    "plt.bar([0.8, 1.8], [1, 2], 0.4, label='m'); plt.bar([1.2, 2.2], [2, 1], 0.4, label='w'); plt.xticks([1, 2], ['p', 'q'])",
    "plt.pie([90, 10, 33.3], labels=['No', 'Yes', 'M'], autopct='%1.1f%%')",
    "plt.boxplot([[85, 90, 78, 92, 88], [95, 89, 84, 91, 87]], tick_labels=['A', 'B'], patch_artist=True); plt.ylabel('Score')",
    "figure, axes = plt.subplots(1, 2); figure.suptitle('S'); axes[0].plot([1, 2]); axes[1].scatter([1], [2], label='D')",
    "plt.plot([datetime.date(2023, 9, n) for n in (1, 2)], [1, 2])",
    "plt.plot([1, 2, 3], ['A', 'B', 'C'])",
    "plt.plot([1, 10, 100], [1, 2, 3]); plt.xscale('log')",
    "plt.gca().add_artist(plt.Circle((0, 0), 1)); plt.gca().add_artist(plt.Circle((0, 0), 2)); plt.title('Two')",
    "pd.DataFrame({'x': [1, 2], 'y': [3, 4]}, index=['a', 'b']).plot.bar(ax=plt.gca())",
];

#[tokio::test]
async fn charts_are_those_of_e2bs_own_extractor() {
    let (daemon, id) = notebook().await;
    let begin = "import datetime, json, warnings\nimport pandas as pd, matplotlib.pyplot as plt\nfrom e2b_charts import chart_figure_to_dict\n\
                 warnings.simplefilter('ignore')";
    cell(&daemon, &id, begin).await;
    for chart in CHARTS {
        let code = format!("{chart};\nprint(json.dumps(chart_figure_to_dict(plt.gcf())))\nplt.show()");
        let (results, printed) = cell(&daemon, &id, &code).await;
        let expected: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(results.len(), 1, "{chart}");
        assert_eq!(results[0]["chart"], expected, "{chart}");
        assert_ne!(results[0]["png"].as_str().unwrap_or_default(), "", "{chart}");
    }
    // Where that one fails, or guesses, the artists' own statistics are told.
    let (results, _) = cell(&daemon, &id, "plt.boxplot([[1, 2, 3, 4, 10.5]]); plt.show()").await;
    let element = json!({
        "label": "1", "min": 1.0, "first_quartile": 2.0, "median": 3.0, "third_quartile": 4.0, "max": 4.0, "outliers": [10.5],
    });
    assert_eq!(
        (&results[0]["chart"]["type"], &results[0]["chart"]["elements"]),
        (&json!("box_and_whisker"), &json!([element]))
    );
    let (results, _) = cell(&daemon, &id, "plt.bar(['a', 'b'], [3, 3]); plt.show()").await;
    assert_eq!(results[0]["chart"]["elements"][1], json!({ "label": "b", "group": "Group 0", "value": 3.0 }));
}
