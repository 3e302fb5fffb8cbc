// Keeps the page up to date: the server renders parts of it again, and they are put in place.
"use strict";

(() => {
  const RETRY_MS = 5000;
  const connection = document.getElementById("connection");
  const regions = new Map(
    [...document.querySelectorAll("[data-region]")].map((region) => [region.dataset.region, region]),
  );
  const held = new Map(); // what came for regions that somebody is in the midst of using
  let pressed = false;
  let source = null;
  let retry = null;

  const say = (state, text) => {
    if (connection.dataset.state !== state) {
      connection.dataset.state = state;
      connection.textContent = text;
    }
  };

  // A button that is replaced between press and release is not clicked; a selection is lost.
  const isInUse = (region) => {
    const selection = document.getSelection();
    return (
      (pressed && region.matches(":hover")) ||
      (!selection.isCollapsed && selection.containsNode(region, true))
    );
  };

  const replace = (region, html) => {
    const focused = region.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...region.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
    region.innerHTML = html; // rendered by the server, which escapes what it fills in
    [...region.querySelectorAll(".scroll")].forEach((part, i) => {
      part.scrollLeft = scrolled[i] ?? 0;
    });
    if (focused !== null && focused !== region) {
      const again = focused.id === "" ? null : document.getElementById(focused.id);
      (again ?? region).focus({ preventScroll: true });
    }
  };

  const show = (name, html) => {
    const region = regions.get(name);
    if (region === undefined) {
      return;
    }
    if (isInUse(region)) {
      held.set(name, html);
    } else {
      held.delete(name);
      replace(region, html);
    }
  };

  const showHeld = () => {
    for (const [name, html] of [...held]) {
      show(name, html);
    }
  };

  const disconnect = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
  };

  const connect = () => {
    disconnect();
    source = new EventSource(connection.dataset.events);
    source.addEventListener("open", () => say("live", "Live"));
    source.addEventListener("error", () => {
      say("away", "Not live, trying again");
      if (source.readyState === EventSource.CLOSED) {
        retry = setTimeout(connect, RETRY_MS); // after an answer that is no stream
      }
    });
    for (const name of regions.keys()) {
      source.addEventListener(name, (event) => show(name, event.data));
    }
  };

  // What became of a button is said once, not whenever the page is loaded again.
  if (new URLSearchParams(location.search).has(connection.dataset.once)) {
    history.replaceState(null, "", location.pathname + location.hash);
  }

  document.addEventListener("pointerdown", () => {
    pressed = true;
  });
  for (const ended of ["pointerup", "pointercancel"]) {
    document.addEventListener(ended, () => {
      pressed = false;
      setTimeout(showHeld); // after the click that this may be
    });
  }
  document.addEventListener("selectionchange", showHeld);
  // Browsers open few connections to a server: pages that nobody sees leave theirs to others.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => event.persisted && connect());
  connect();
})();
