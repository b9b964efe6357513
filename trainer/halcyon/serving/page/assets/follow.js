// Keeps the end of the page in view while an answer comes, until the user scrolls up to read.

const NEAR_PIXELS = 120;

/**
 * Scrolls to the end whenever `element` grows while the end is in view.
 * @param {HTMLElement} element
 * @param {(away: boolean) => void} moved Called with true while the user reads far from the end.
 * @returns {() => void} Scrolls to the end now.
 */
export function followEnd(element, moved) {
  const page = document.scrollingElement;
  let follows = true;
  let top = page.scrollTop;
  const below = () => page.scrollHeight - page.scrollTop - page.clientHeight;
  const report = () => moved(!follows && below() >= NEAR_PIXELS);
  const toEnd = () => {
    page.scrollTo({ top: page.scrollHeight, behavior: "instant" });
    top = page.scrollTop;
  };
  // A late event of the page's own scrolling finds the end far away, because the answer has grown. So only a way up ends the following.
  const scrolled = () => {
    if (page.scrollTop < top && below() > 1) follows = false;
    else if (below() < NEAR_PIXELS) follows = true;
    top = page.scrollTop;
    report();
  };
  addEventListener("scroll", scrolled, { passive: true });
  new ResizeObserver(() => {
    if (follows) toEnd();
    report();
  }).observe(element);
  return () => {
    follows = true;
    toEnd();
    report();
  };
}
