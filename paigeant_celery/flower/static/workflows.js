/* Workflows in Flower: shows what changes without a reload. Without this script the pages show the same, as it was. */
(function () {
    "use strict";

    var KEPT_EVENTS = 1000; // rows of history
    var KEPT_RUNS = 50; // runs of agents
    var LONGEST_LINE = 20000; // characters of one text of an agent
    var OVER = ["completed", "failed", "cancelled"];
    var FIRST_PAUSE = 2000; // milliseconds until a refused connection is tried again; the pause grows
    var LONGEST_PAUSE = 30000;

    var refresh = window.paigeantRefresh;
    var follower = null; // of the workflow, if the page shows one
    var standing = ""; // where the steps stood when it was looked last

    function stateShown() {
        var shown = document.getElementById("wf-state");
        return shown ? shown.textContent : "";
    }

    function statesShown() {
        return Array.from(document.querySelectorAll(".wf-row")).map(function (row) {
            var badge = row.querySelector(".wf-badge");
            return row.getAttribute("data-wf-path") + " " + (badge ? badge.textContent : "");
        }).join("\n");
    }

    // All was told of a parked workflow until somebody lets it, or a branch of it, go on. It may have ended since.
    document.addEventListener("wf-refreshed", function () {
        var before = standing;
        standing = statesShown();
        if (follower && (standing !== before || OVER.concat("parked").indexOf(stateShown()) < 0)) {
            follower.goOn();
        }
    });

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
        var told = Object.keys(data.fields).filter(function (name) { return data.fields[name] !== ""; });
        var fields = told.map(function (name) { return name + "=" + data.fields[name]; });
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
    var kept = []; // their keys, the oldest first

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
            runs[key] = {shown: made, line: null, as: "", length: 0};
            kept.push(key);
            if (kept.length > KEPT_RUNS) {
                key = kept.shift();
                shown.removeChild(runs[key].shown);
                delete runs[key];
            }
        }
        return runs[data.run + "/" + data.attempt];
    }

    function said(data) {
        var run = runOf(data);
        if (data.begins || run.line === null || run.as !== data.as) {
            run.line = element("p", "wf-line wf-as-" + data.as, "");
            run.as = data.as;
            run.length = 0;
            run.shown.appendChild(run.line);
        }
        if (run.length >= LONGEST_LINE) {
            return;
        }
        run.line.appendChild(document.createTextNode(data.text));
        run.length += data.text.length;
        if (run.length >= LONGEST_LINE) {
            run.line.appendChild(element("span", "wf-muted", " … (more is not shown here)"));
        }
    }

    // A browser has six connections to a server for all its tabs, so only a tab in front follows, and only while there is
    // something to follow. Each connection goes on behind the last event that was shown.

    function Follower(address) {
        var shown = document.getElementById("wf-live-state");
        var source = null;
        var later = null; // the timer of the next try
        var pause = FIRST_PAUSE;
        var last = ""; // the cursor of the last event
        var rests = false; // all is told, until the page shows that it goes on
        var settled = false; // what happened before the page was made is in it
        var known = Date.now();

        function note(text) {
            shown.textContent = text;
        }

        function take(event) {
            last = event.lastEventId || last;
            return JSON.parse(event.data);
        }

        function open() {
            var made;
            if (source || rests || document.hidden) {
                return;
            }
            window.clearTimeout(later);
            made = source = new EventSource(last ? address + "?after=" + encodeURIComponent(last) : address);
            made.onopen = function () {
                pause = FIRST_PAUSE;
                note("live");
            };
            made.onerror = function () {
                note("not connected");
                // A browser tries again by itself, unless it got an answer that is no stream of events.
                if (made === source && made.readyState === EventSource.CLOSED) {
                    source = null;
                    later = window.setTimeout(open, pause);
                    pause = Math.min(LONGEST_PAUSE, 2 * pause);
                }
            };
            made.addEventListener("happened", function (event) {
                var data = take(event);
                happened(data);
                settled = settled || new Date(data.at).getTime() > known - 5000;
                if (settled) {
                    refresh();
                }
            });
            made.addEventListener("agent", function (event) { said(take(event)); });
            made.addEventListener("over", function () {
                rests = true;
                close();
                refresh();
            });
        }

        function close() {
            window.clearTimeout(later);
            if (source) {
                source.close();
                source = null;
            }
            note("");
        }

        this.open = open;
        this.close = close;
        this.goOn = function () {
            if (rests) {
                rests = false;
                open();
            }
        };
    }

    document.addEventListener("DOMContentLoaded", function () {
        var workflow = document.getElementById("wf-workflow");
        var list = document.querySelector("[data-wf-refresh]");
        if (workflow) {
            // What a button has just done is told once, and a form that was refused is not sent again by a reload.
            window.history.replaceState(null, "", workflow.getAttribute("data-wf-page"));
            standing = statesShown();
            follower = new Follower(workflow.getAttribute("data-wf-events"));
            follower.open();
            document.addEventListener("visibilitychange", function () {
                if (document.hidden) {
                    follower.close();
                } else {
                    follower.open();
                    refresh();
                }
            });
            window.addEventListener("pagehide", follower.close);
            window.addEventListener("pageshow", follower.open);
            window.setInterval(function () {
                if (!document.hidden && OVER.indexOf(stateShown()) < 0) {
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
