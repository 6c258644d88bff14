"""Which texts of a page can hardly be read: the contrast of their colours, as browsers have computed them."""

from __future__ import annotations

from playwright.sync_api import Page

__all__ = ["READABLE", "faint_texts"]

READABLE = 4.5  # what WCAG 2 (1.4.3, AA) asks for, of text of an ordinary size

# Of each element with a text of its own that is seen: its words, and how its colour differs from what is behind it.
# Buttons and fields are as Flower has them.
LOOK = """
root => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const over = (front, back) => {
        const alpha = front.length > 3 ? front[3] : 1;
        return [0, 1, 2].map(at => front[at] * alpha + back[at] * (1 - alpha));
    };
    const behind = element => {
        if (!element) return [255, 255, 255];
        return over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement));
    };
    const opacity = element => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
    const light = colour => {
        const [red, green, blue] = colour.map(part => part / 255).map(
            part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    return Array.from(document.querySelectorAll(root + ' *')).filter(element =>
        element.checkVisibility() && !element.closest('.btn, input, select, textarea, svg')
        && Array.from(element.childNodes).some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())
    ).map(element => {
        const back = behind(element), [red, green, blue, alpha = 1] = parts(getComputedStyle(element).color);
        const front = over([red, green, blue, alpha * opacity(element)], back);
        const [darker, lighter] = [light(back), light(front)].sort((one, other) => one - other);
        return [element.className + ': ' + element.textContent.trim().slice(0, 40), (lighter + 0.05) / (darker + 0.05)];
    });
}
"""


def faint_texts(page: Page, within: str) -> list[str]:
    """Return the texts below an element that have too little contrast, with their ratios; fails if there is none."""
    looked = page.evaluate(LOOK, within)
    assert looked, f"no text in {within}"
    return [f"{text} ({ratio:.2f})" for text, ratio in looked if ratio < READABLE]
