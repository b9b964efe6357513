// Keeps the end of the page in view while an answer comes, until the user scrolls up to read.

const NEAR_PIXELS = 120;

/** Scrolls to the end whenever `element` grows while the end is in view. Returns a function that scrolls to the end now. */
export function followEnd(element) {
  const page = document.scrollingElement;
  let follows = true;
  let top = page.scrollTop;
  const toEnd = () => {
    page.scrollTo({ top: page.scrollHeight, behavior: "instant" });
    top = page.scrollTop;
  };
  // A late event of the page's own scrolling finds the end far away, because the answer has grown. So only a way up ends the following.
  const scrolled = () => {
    const below = page.scrollHeight - page.scrollTop - page.clientHeight;
    if (page.scrollTop < top && below > 1) follows = false;
    else if (below < NEAR_PIXELS) follows = true;
    top = page.scrollTop;
  };
  addEventListener("scroll", scrolled, { passive: true });
  new ResizeObserver(() => follows && toEnd()).observe(element);
  return () => {
    follows = true;
    toEnd();
  };
}
