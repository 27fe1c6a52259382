// A results journal: read, resumed, continued and ended; what was continued reads back whole.
#include "stuffed/io/journal.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

namespace {

/// Equal to the seeds', so that resuming them is not refused at the first line.
io::JournalHeader header() {
  return {.schema = "stuffed.fuzz",
          .version = 1,
          .config = {{"length_tokens", 8}},
          .provenance = {{"commit", "c0ffee"}}};
}

void continue_run(const std::filesystem::path& path, int64_t records) {
  io::Journal journal = io::Journal::open(path, header());
  if (journal.size() != records)
    broken("a resumed journal lost or made up records");
  if (!journal.finished() && !journal.done("fuzz")) {
    journal.append("fuzz", {{"nll_sum_nats", 0.5}});
    journal.finish();
  }
  int64_t found = 0;
  const io::JournalEnd end = io::read_journal(path, [&](const io::json& record, io::LinePlace) {
    ++found;
    if (journal.record(record.at("key").get<std::string>()) != record)
      broken("a record reads back as another");
  });
  if (found != journal.size() || (journal.finished() && !end.finished))
    broken("a continued journal is not whole");
}

}  // namespace

void fuzz_journal(const uint8_t* data, size_t size) {
  with_file(data, size, [](const std::filesystem::path& path) {
    int64_t records = 0;
    io::read_journal(path, [&](const io::json&, io::LinePlace) { ++records; });
    try {
      continue_run(path, records);
    } catch (const Error& error) {
      if (error.kind() != Error::Kind::Usage)  // another run's journal
        throw;
    }
  });
}

}  // namespace stuffed::fuzz
