// Journals as tables, whatever their schema.
#include <map>

#include "export_folder.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/export_tables.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/journal_ends.h"
#include "stuffed/io/json.h"
#include "stuffed/io/output_guard.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;
using io::json;

/// A table's field: quoted where a comma, a quote or a line's end would break it.
std::string cell_of(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == text.npos)
    return text;
  std::string quoted = "\"";
  for (const char c : text)
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// A value as the journal has it; null is empty.
std::string value_of(const json& value) {
  return value.is_null()     ? ""
         : value.is_string() ? cell_of(value.get<std::string>())
                             : cell_of(value.dump());
}

/// A file that is written a block at a time, and appears whole.
class Table {
 public:
  explicit Table(const fs::path& path) : file_(path) {}

  void add(const std::string& row) {
    pending_ += row + "\n";
    if (pending_.size() >= kBlockBytes)
      flush();
  }

  void commit() {
    flush();
    file_.commit();
  }

 private:
  static constexpr size_t kBlockBytes = size_t{1} << 20;

  void flush() {
    file_.write(pending_);
    pending_.clear();
  }

  io::AtomicFile file_;
  std::string pending_;
};

/// What a record holds: its single values by name, its arrays' elements by name and place.
struct Flat {
  std::map<std::string, std::string> singles;
  std::vector<std::string> elements;  // field,index,value
};

std::string joined(const std::string& outer, const std::string& inner, const char* by) {
  return outer.empty() ? inner : outer + by + inner;
}

/// `index` is empty outside of arrays.
void flatten(const json& value, const std::string& field, const std::string& index, Flat& flat) {
  if (value.is_object()) {
    for (const auto& [name, inner] : value.items())
      flatten(inner, joined(field, name, "."), index, flat);
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i)
      flatten(value[i], field, joined(index, std::to_string(i), "."), flat);
  } else if (index.empty()) {
    flat.singles[field] = value_of(value);
  } else {
    flat.elements.push_back(fmt::format("{},{},{}", cell_of(field), index, value_of(value)));
  }
}

Flat flat_of(const json& value) {
  Flat flat;
  flatten(value, "", "", flat);
  return flat;
}

/// The columns of records.csv but for the key, which comes first.
std::map<std::string, size_t> columns_of(const fs::path& journal, io::JournalEnd& end) {
  std::map<std::string, size_t> columns;
  end = io::read_journal(journal, [&](const json& record, io::LinePlace) {
    for (const auto& [name, value] : flat_of(record).singles)
      if (name != "key")
        columns.emplace(name, 0);
  });
  size_t place = 0;
  for (auto& [name, at] : columns)
    at = place++;
  return columns;
}

std::string row_of(const std::string& key,
                   const Flat& flat,
                   const std::map<std::string, size_t>& columns) {
  std::string row = key;
  for (const auto& [name, at] : columns) {
    const auto found = flat.singles.find(name);
    row += "," + (found == flat.singles.end() ? "" : found->second);
  }
  return row;
}

void write_records(const fs::path& journal,
                   const fs::path& folder,
                   const std::map<std::string, size_t>& columns,
                   ExportedFiles& files) {
  files.written = {folder / "records.csv", folder / "values.csv"};
  Table records(files.written[0]), values(files.written[1]);
  std::string head = "key";
  for (const auto& [name, at] : columns)
    head += "," + cell_of(name);
  records.add(head);
  values.add("key,field,index,value");
  io::read_journal(journal, [&](const json& record, io::LinePlace) {
    const Flat flat = flat_of(record);
    const std::string key = value_of(record.at("key"));
    records.add(row_of(key, flat, columns));
    for (const std::string& element : flat.elements)
      values.add(key + "," + element);
  });
  records.commit();
  values.commit();
}

void write_run(const io::JournalHeader& header, const fs::path& folder, ExportedFiles& files) {
  files.written.push_back(folder / "run.csv");
  Table table(files.written.back());
  table.add("field,value");
  const json run = {{"schema", header.schema},
                    {"version", header.version},
                    {"config", header.config},
                    {"provenance", header.provenance}};
  const Flat flat = flat_of(run);
  for (const auto& [name, value] : flat.singles)
    table.add(cell_of(name) + "," + value);
  for (const std::string& element : flat.elements) {
    std::string row = element;  // field,index,value: the field's name holds the index here
    const size_t comma = row.starts_with('"') ? row.find("\",") + 1 : row.find(',');
    row[comma] = '.';
    table.add(row);
  }
  table.commit();
}

}  // namespace

ExportedFiles export_csv(const fs::path& journal,
                         const fs::path& folder,
                         const ExportOptions& options) {
  io::JournalEnd end;
  const std::map<std::string, size_t> columns = columns_of(journal, end);
  check(!end.empty, Error::Kind::Input, "{}: is empty", journal.string());
  check_finished(journal, end.finished, options.partial);
  check_folder(folder, options.overwrite);
  io::OutputGuard guard;
  guard.reads("RESULTS", journal);
  for (const char* name : {"records.csv", "values.csv", "run.csv"})
    guard.writes("-o", folder / name);
  make_folder(folder);
  ExportedFiles files;
  write_records(journal, folder, columns, files);
  write_run(end.header, folder, files);
  if (!end.finished)
    files.warnings.push_back(
        fmt::format("{}: is not finished; the tables hold the records so far", journal.string()));
  return files;
}

}  // namespace stuffed::eval
