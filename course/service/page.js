// Runs once for every part of the page that shows buttons of ours; the server listens to these four events.
const told = ['similar', 'add_item', 'remove_item', 'ask'];
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (button && told.includes(button.dataset.do)) trigger(button.dataset.do, { id: button.dataset.id });
});
