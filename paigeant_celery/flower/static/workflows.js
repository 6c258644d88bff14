/* Workflows in Flower: shows what changes without a reload. Without this script the pages show the same, as it was. */
(function () {
    "use strict";

    var KEPT_EVENTS = 1000; // rows of history
    var KEPT_RUNS = 50; // runs of agents
    var LONGEST_LINE = 20000; // characters of one text of an agent
    var OVER = ["completed", "failed", "cancelled"];

    /* Parts of the page that the server has rendered again. A part in which somebody types is left as it is. */

    var asking = false;
    var again = false;

    function isBusy(part) {
        if (part.contains(document.activeElement) && part.querySelector("form, details")) {
            return true;
        }
        return Array.prototype.some.call(part.querySelectorAll("details[open], textarea, input:not([type=hidden])"), function (field) {
            return field.tagName === "DETAILS" || (field.type === "checkbox" ? field.checked : field.value !== field.defaultValue);
        });
    }

    function refresh() {
        if (asking) {
            again = true;
            return;
        }
        asking = true;
        window.fetch(window.location.href, {credentials: "same-origin", headers: {"Accept": "text/html"}}).then(function (answer) {
            if (!answer.ok || answer.redirected) {
                throw new Error("the page is not shown any more");
            }
            return answer.text();
        }).then(function (text) {
            var shown = new DOMParser().parseFromString(text, "text/html");
            document.querySelectorAll("[data-wf-live]").forEach(function (part) {
                var name = part.getAttribute("data-wf-live");
                var other = shown.querySelector("[data-wf-live='" + name + "']");
                if (other && name !== "notices" && part.innerHTML !== other.innerHTML && !isBusy(part)) {
                    part.replaceChildren.apply(part, Array.from(other.childNodes));
                }
            });
        }).catch(function () {
            // It is asked again with the next event, or at the next turn.
        }).then(function () {
            asking = false;
            if (again) {
                again = false;
                window.setTimeout(refresh, 500);
            }
        });
    }

    /* What happens to the workflow, and what its agents say. All texts become text nodes. */

    function element(name, className, text) {
        var made = document.createElement(name);
        if (className) {
            made.className = className;
        }
        if (text !== undefined) {
            made.textContent = text;
        }
        return made;
    }

    function happened(data) {
        var body = document.getElementById("wf-happened");
        var row = element("tr");
        var fields = Object.keys(data.fields).map(function (name) { return name + "=" + data.fields[name]; });
        row.appendChild(element("td", "", new Date(data.at).toISOString().replace("T", " ").slice(0, 23)));
        row.appendChild(element("td", "", data.type));
        row.appendChild(element("td", "", data.path || data.hop));
        row.appendChild(element("td", "wf-muted", fields.join(" ")));
        body.insertBefore(row, body.firstChild);
        while (body.children.length > KEPT_EVENTS) {
            body.removeChild(body.lastChild);
        }
    }

    var runs = {};

    function runOf(data) {
        var key = data.run + "/" + data.attempt;
        if (!runs[key]) {
            var shown = document.getElementById("wf-agents-said");
            var made = element("div", "wf-run");
            var title = element("h3", "", data.path);
            if (data.attempt > 1) {
                title.appendChild(element("span", "wf-muted", " attempt " + data.attempt));
            }
            made.appendChild(title);
            shown.insertBefore(made, shown.firstChild);
            document.getElementById("wf-agents").classList.remove("wf-hidden");
            runs[key] = {shown: made, line: null, as: ""};
            while (shown.children.length > KEPT_RUNS) {
                shown.removeChild(shown.lastChild);
            }
        }
        return runs[key];
    }

    function said(data) {
        var run = runOf(data);
        if (data.begins || run.line === null || run.as !== data.as) {
            run.line = element("p", "wf-line wf-as-" + data.as, "");
            run.as = data.as;
            run.shown.appendChild(run.line);
        }
        if (run.line.textContent.length < LONGEST_LINE) {
            run.line.appendChild(document.createTextNode(data.text));
        }
    }

    function follow(address) {
        var state = document.getElementById("wf-live-state");
        var source = new EventSource(address);
        var settled = false; // what happened before the page was made is in it
        var known = Date.now();

        function note(text) {
            if (state) {
                state.textContent = text;
            }
        }

        source.onopen = function () { note("live"); };
        source.onerror = function () { note("not connected"); };
        source.addEventListener("happened", function (event) {
            var data = JSON.parse(event.data);
            happened(data);
            settled = settled || new Date(data.at).getTime() > known - 5000;
            if (settled) {
                refresh();
            }
        });
        source.addEventListener("agent", function (event) { said(JSON.parse(event.data)); });
        source.addEventListener("over", function () {
            source.close();
            note("");
            refresh();
        });
    }

    document.addEventListener("DOMContentLoaded", function () {
        var workflow = document.getElementById("wf-workflow");
        var list = document.querySelector("[data-wf-refresh]");
        if (workflow) {
            // What a button has just done is told once, and a form that was refused is not sent again by a reload.
            window.history.replaceState(null, "", workflow.getAttribute("data-wf-page"));
            follow(workflow.getAttribute("data-wf-events"));
            window.setInterval(function () {
                var state = document.getElementById("wf-state");
                if (!document.hidden && state && OVER.indexOf(state.textContent) < 0) {
                    refresh(); // times go on, too
                }
            }, 5000);
        }
        if (list) {
            window.setInterval(function () {
                if (!document.hidden) {
                    refresh();
                }
            }, 1000 * Number(list.getAttribute("data-wf-refresh")));
        }
    });
}());
