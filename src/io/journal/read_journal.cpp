// Reads a journal back: what is a whole line, what kind of line it is, and where the torn one
// begins.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/journal_ends.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::io {

namespace {

bool is_version(const json& value) {
  return value.is_number_integer() && value >= 0 && value <= std::numeric_limits<int>::max();
}

JournalHeader parse_header(const json& line, const std::string& where) {
  const bool whole = line.is_object() && line.contains("schema") && line.at("schema").is_string() &&
                     line.contains("version") && is_version(line.at("version")) &&
                     line.contains("config");
  check(whole, Error::Kind::Input,
        "{}: is not the header of a stuffed journal (schema, version, config)", where);
  return {.schema = line.at("schema"),
          .version = line.at("version"),
          .config = line.at("config"),
          .provenance = line.value("provenance", json::object())};
}

std::string commit_in(const json& line) {
  const json provenance = line.value("provenance", json::object());
  const json commit = provenance.is_object() ? provenance.value("commit", json()) : json();
  return commit.is_string() ? commit.get<std::string>() : std::string();
}

/// A header that was cut before its newline looks like the beginning of one.
bool could_be_torn_header(std::string_view text) {
  constexpr std::string_view kBeginning = "{\"schema\":";
  return text.substr(0, kBeginning.size()) == kBeginning.substr(0, text.size());
}

/// Whoever looks into a record may find a field missing, or of another type.
void hand_over(const json& record,
               LinePlace place,
               const std::string& where,
               const std::function<void(const json& record, LinePlace place)>& on_record) {
  try {
    on_record(record, place);
  } catch (const json::exception& error) {
    fail(Error::Kind::Input, "{}: is not a record such as stuffed writes: {}", where,
         reason_of(error));
  }
}

/// Is the file's last line an end line?
bool has_end(std::ifstream& file, int64_t bytes) {
  constexpr int64_t kLongest = 4096;  // an end line holds a few counts
  std::string tail(static_cast<size_t>(std::min(bytes, kLongest)), '\0');
  file.seekg(bytes - static_cast<int64_t>(tail.size()));
  file.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  if (!file.good() || !tail.ends_with('\n'))
    return false;
  tail.pop_back();
  return tail.substr(tail.rfind('\n') + 1).starts_with("{\"end\":true");
}

}  // namespace

JournalEnd look_into_journal(const std::filesystem::path& path) {
  check_regular_file(path);
  std::ifstream file(path, std::ios::binary);
  std::string text;
  check(std::getline(file, text).good(), Error::Kind::Input, "{}: is not a stuffed journal",
        path.string());
  const std::string where = fmt::format("{}: line 1", path.string());
  check(text.starts_with('{'), Error::Kind::Input, "{}: not a stuffed journal", where);
  JournalEnd end;
  const json line = parse_json(text, where);
  end.header = parse_header(line, where);
  end.commit = commit_in(line);
  end.header_hash = sha256(text + "\n");
  end.finished = has_end(file, static_cast<int64_t>(std::filesystem::file_size(path)));
  return end;
}

JournalEnd read_journal(const std::filesystem::path& path,
                        const std::function<void(const json& record, LinePlace place)>& on_record) {
  check_regular_file(path);
  std::ifstream file(path, std::ios::binary);
  check(file.good(), Error::Kind::Input, "{}: cannot be read: {}", path.string(),
        std::strerror(errno));
  JournalEnd end;
  int64_t number = 0;
  int64_t records = 0;
  for (std::string text; std::getline(file, text); ++number) {
    const std::string where = fmt::format("{}: line {}", path.string(), number + 1);
    if (file.eof()) {  // no newline: the torn line, cut off by whoever writes next
      check(number > 0 || could_be_torn_header(text), Error::Kind::Input,
            "{}: is not a stuffed journal", path.string());
      break;
    }
    const LinePlace place{.offset_bytes = end.whole_bytes,
                          .bytes = static_cast<int64_t>(text.size())};
    check(number > 0 || text.starts_with('{'), Error::Kind::Input,
          "{}: not a stuffed journal, which is left as it is; name another file", where);
    // Bytes are what a resumed run is compared by; what would follow here would end otherwise.
    check(
        !text.ends_with('\r'), Error::Kind::Input,
        "{}: ends in a carriage return: something has changed the journal's line ends; change them "
        "back (tr -d '\\r')",
        where);
    const json line = parse_json(text, where);
    check(!end.finished, Error::Kind::Input, "{}: comes after the end line", where);
    if (number == 0) {
      end.header = parse_header(line, where);
      end.commit = commit_in(line);
      end.header_hash = sha256(text + "\n");
    } else if (line.is_object() && line.contains("key") && line.at("key").is_string()) {
      ++records;
      hand_over(line, place, where, on_record);
    } else if (line.is_object() && line.contains("end")) {
      check(line.value("records", json()) == records, Error::Kind::Input,
            "{}: says {} records, but {} are there", where, line.value("records", json()).dump(),
            records);
      end.finished = true;
    } else {
      check(line.is_object() && line.contains("resumed"), Error::Kind::Input,
            "{}: is neither a record nor a resumed or end line", where);
      end.commit = commit_in(line);
    }
    end.whole_bytes += place.bytes + 1;
  }
  check(!file.bad(), Error::Kind::Input, "{}: reading failed", path.string());
  end.empty = number == 0;
  return end;
}

}  // namespace stuffed::io
