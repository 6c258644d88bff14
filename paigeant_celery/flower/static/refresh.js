/* Brings the parts of a page that change up to date, in place: what is open, focused or typed in stays as it is. */
(function () {
    "use strict";

    var SHORTEST_REST = 500; // milliseconds between two askings
    var REST = 2; // times as long as the last one took, so that a page that takes long leaves time for others
    var TYPED = "article[data-wf-wait]"; // what is left alone while somebody types in it

    var asking = false;
    var resting = false;
    var again = false;

    function keyOf(node) {
        if (node.nodeType !== Node.ELEMENT_NODE) {
            return "";
        }
        return node.getAttribute("data-wf-key") || node.getAttribute("data-wf-path") || node.getAttribute("data-wf-wait") || "";
    }

    function isLike(node, other) {
        return node.nodeType === other.nodeType && node.nodeName === other.nodeName && keyOf(node) === keyOf(other);
    }

    function isTyped(part) {
        return Array.prototype.some.call(part.querySelectorAll("textarea, input:not([type=hidden])"), function (field) {
            return field.value !== field.defaultValue;
        });
    }

    /* The words of a part, and nothing that is made anew each time, as the tokens of forms are. */
    function wordsOf(part) {
        var copy = part.cloneNode(true);
        copy.querySelectorAll(".wf-stale").forEach(function (note) { note.remove(); });
        return copy.textContent.replace(/\s+/g, " ").trim();
    }

    function say(part, text) {
        var note = part.querySelector(":scope > .wf-stale");
        if (!text) {
            if (note) {
                note.remove();
            }
            return;
        }
        if (!note) {
            note = document.createElement("p");
            note.className = "alert alert-warning wf-stale";
            note.setAttribute("role", "status");
            part.insertBefore(note, part.firstChild);
        }
        if (note.textContent !== text) {
            note.textContent = text;
        }
    }

    /* Removes what is not there any more; a part with something typed stays, and says so. */
    function remove(node) {
        var kept = false;
        if (node.nodeType === Node.ELEMENT_NODE) {
            (node.matches(TYPED) ? [node] : Array.from(node.querySelectorAll(TYPED))).forEach(function (part) {
                if (isTyped(part)) {
                    kept = true;
                    say(part, "Not up to date: nothing waits for this any more. What you have typed is kept until you leave the page.");
                } else {
                    part.remove();
                }
            });
        }
        if (!kept) {
            node.remove();
        }
        return kept;
    }

    function update(shown, other) {
        if (shown.nodeType !== Node.ELEMENT_NODE) {
            if (shown.data !== other.data) {
                shown.data = other.data;
            }
            return;
        }
        if (shown.isEqualNode(other)) {
            return;
        }
        if (shown.matches(TYPED)) {
            if (isTyped(shown)) {
                say(shown, wordsOf(shown) === wordsOf(other) ? "" : "Not up to date: this has changed while you were typing. Reload the page to see it.");
                return;
            }
            say(shown, "");
        }
        updateAttributes(shown, other);
        updateChildren(shown, other);
    }

    function updateAttributes(shown, other) {
        Array.from(shown.attributes).forEach(function (attribute) {
            // Whether something is open is for whoever looks at it to say.
            if (!other.hasAttribute(attribute.name) && attribute.name !== "open") {
                shown.removeAttribute(attribute.name);
            }
        });
        Array.from(other.attributes).forEach(function (attribute) {
            if (shown.getAttribute(attribute.name) !== attribute.value) {
                shown.setAttribute(attribute.name, attribute.value);
            }
        });
    }

    function updateChildren(shown, other) {
        var at = shown.firstChild;
        Array.from(other.childNodes).forEach(function (wanted) {
            var found = at;
            if (!found || !isLike(found, wanted)) {
                found = null;
                for (var later = at; keyOf(wanted) && later && !found; later = later.nextSibling) {
                    found = isLike(later, wanted) ? later : null;
                }
                found = shown.insertBefore(found || document.importNode(wanted, true), at);
            }
            update(found, wanted);
            at = found.nextSibling;
        });
        while (at) {
            var next = at.nextSibling;
            remove(at);
            at = next;
        }
    }

    var LATE = "This page is not up to date: Flower does not answer, or asks you to sign in again. It tries again by itself.";

    function isUpToDate(yes) {
        var page = document.querySelector(".wf-page");
        var note = document.getElementById("wf-late");
        if (yes && note) {
            note.remove();
        } else if (!yes && !note) {
            note = document.createElement("p");
            note.id = "wf-late";
            note.className = "alert alert-warning";
            note.setAttribute("role", "status");
            note.textContent = LATE;
            page.insertBefore(note, page.firstChild);
        }
    }

    function ask() {
        var began = window.performance.now();
        asking = true;
        window.fetch(window.location.href, {credentials: "same-origin", headers: {"Accept": "text/html"}}).then(function (answer) {
            if (!answer.ok || answer.redirected) {
                throw new Error("the page is not shown any more");
            }
            return answer.text();
        }).then(function (text) {
            var made = new DOMParser().parseFromString(text, "text/html");
            document.querySelectorAll("[data-wf-live]").forEach(function (part) {
                var other = made.querySelector("[data-wf-live='" + part.getAttribute("data-wf-live") + "']");
                if (other) {
                    update(part, other);
                }
            });
            isUpToDate(true);
            document.dispatchEvent(new Event("wf-refreshed"));
        }, function () {
            isUpToDate(false); // it is asked again with the next event, or at the next turn
        }).finally(function () {
            asking = false;
            resting = true;
            window.setTimeout(function () {
                resting = false;
                if (again) {
                    again = false;
                    ask();
                }
            }, Math.max(SHORTEST_REST, REST * (window.performance.now() - began)));
        });
    }

    /* Asks for the page again, now or after the rest that follows the last asking. */
    window.paigeantRefresh = function () {
        if (asking || resting) {
            again = true;
        } else {
            ask();
        }
    };
}());
